"""The shards are read by webdataset and by DALI's own reader."""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from nvidia.dali import fn, pipeline_def
from PIL import Image

from eyespot.data_pipeline.shards import shard_writer
from eyespot.data_pipeline.shards.members.tar_members import scan
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG and PNG, gray and RGB, three classes, in three tars."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for number in range(50):
        folder = root / "in" / f"class {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        shape = (24, 32, 3) if number % 2 else (24, 32)
        kind = "png" if number % 5 == 0 else "jpg"
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{number} .ü.{kind}")
    pack(str(root / "in"), root / "out", max_samples=20)
    return root / "out"


def rows(shards: Path) -> list[tuple[bytes, int]]:
    """(image bytes, label) by the index."""
    index = ShardFolder(shards).index
    tars = [(shards / shard.tar).read_bytes() for shard in ShardFolder(shards).manifest.shards]
    return [(tars[row["tar"]][row["offset"] : row["offset"] + row["size"]], int(row["label"])) for row in index]


def test_webdataset_reads_them(shards: Path):
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    assert len(urls) == 3
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg;png", "cls"))
    assert len(read) == 50
    for (image, label), (data, expected) in zip(read, rows(shards), strict=True):
        assert label == expected
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_dalis_reader_reads_them(shards: Path):
    @pipeline_def(batch_size=50, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        tars = [str(path) for path in sorted(shards.glob("*.tar"))]
        indexes = [str(path) for path in sorted(shards.glob("*.idx"))]
        return tuple(fn.readers.webdataset(paths=tars, index_paths=indexes, ext=["jpg;png", "cls"]))

    built = pipeline()
    built.build()
    images, labels = built.run()
    for number, (data, label) in enumerate(rows(shards)):
        assert np.asarray(images.at(number)).tobytes() == data
        assert int(np.asarray(labels.at(number)).tobytes()) == label


def test_members_are_plain(shards: Path):
    for path in sorted(shards.glob("*.tar")):
        assert scan(path).problem is None
        with tarfile.open(path) as archive:
            for member in archive:
                assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}\.(jpg|png|cls|json)", member.name)
                assert (member.mtime, member.uid, member.uname, member.pax_headers) == (0, 0, "", {})
                assert member.offset_data == member.offset + 512


def test_a_sample_can_be_traced_back(shards: Path):
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as archive:
            content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name, data in content.items():
            if name.endswith(".json"):
                source = shards.parent / "in" / json.loads(data)["source"]
                image = content.get(name.replace(".json", ".jpg"), content.get(name.replace(".json", ".png")))
                assert source.read_bytes() == image
                assert f"class {content[name.replace('.json', '.cls')].decode()}" == source.parent.name


def test_a_tar_is_to_the_byte_that_of_webdatasets_writer(tmp_path: Path):
    rng = np.random.default_rng(0)
    sizes = enumerate([0, 1, 511, 512, 513, 9000, 200_000])
    members = [(f"{number:08d}.{kind}", rng.bytes(size)) for number, size in sizes for kind in ("cls", "jpg")]
    ours = shard_writer._Tar(tmp_path / "ours.tar")
    with webdataset.TarWriter(
        str(tmp_path / "theirs.tar"), user="", group="", encoder=False, mtime=0, format=tarfile.USTAR_FORMAT
    ) as theirs:
        for name, data in members:
            place = ours.add(name, data)
            key, extension = name.split(".")
            theirs.write({"__key__": key, extension: data})
            assert place % 512 == 0
    size, digest = ours.finish()
    written = (tmp_path / "ours.tar").read_bytes()
    assert written == (tmp_path / "theirs.tar").read_bytes()
    assert (size, digest) == (len(written), hashlib.sha256(written).hexdigest())
    assert [(member.name, member.size) for member in scan(tmp_path / "ours.tar").files] == [
        (name, len(data)) for name, data in members
    ]
