"""Tars of other tools are indexed where they lie."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from shapes import levels

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import verify


def jpeg(height: int = 20, width: int = 30, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels(height, width, 3)).convert(mode).save(stream, "JPEG")
    return stream.getvalue()


def write(path: Path, members: dict[str, bytes], dialect: int = tarfile.PAX_FORMAT) -> dict[str, bytes]:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=dialect) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return members


def images(folder: Path) -> list[bytes]:
    """What the index says are the images."""
    manifest = ShardFolder(folder).manifest
    tars = [(folder / shard.tar).read_bytes() for shard in manifest.shards]
    return [tars[row["tar"]][row["offset"] :][: row["size"]] for row in ShardFolder(folder).index]


def test_img2dataset_layout(tmp_path: Path):
    expected = []
    for shard in range(2):
        members: dict[str, bytes] = {}
        for number in range(5):
            key = f"{shard:05d}{number:04d}"
            expected.append(jpeg(20 + number))
            extra = {"url": "http://x", "width": 30, "pad": "x" * 600}
            members |= {f"{key}.jpg": expected[-1], f"{key}.json": json.dumps(extra).encode(), f"{key}.txt": b"a cat"}
        write(tmp_path / "set" / f"{shard:05d}.tar", members)
    (tmp_path / "set" / "00000.parquet").write_bytes(b"img2dataset's own notes")
    before = {path: path.read_bytes() for path in (tmp_path / "set").glob("*.tar")}
    manifest = index_folder(tmp_path / "set")
    assert images(tmp_path / "set") == expected
    assert (manifest.num_samples, manifest.num_labeled, manifest.classes) == (10, 0, [])
    assert [shard.num_samples for shard in manifest.shards] == [5, 5]
    assert ShardFolder(tmp_path / "set").index["height"].tolist() == [20, 21, 22, 23, 24] * 2
    assert manifest == ShardFolder(tmp_path / "set").manifest
    assert verify(tmp_path / "set") == []
    assert all(path.read_bytes() == data for path, data in before.items())
    first = (tmp_path / "set" / "00000.idx").read_text().splitlines()[1].split()
    assert first[::4] == ["jpg", "json", "txt"]


@pytest.mark.parametrize("dialect", ["gnu", "pax", "ustar"])
def test_plain_tar_of_class_folders_with_hostile_names(tmp_path: Path, dialect: str):
    names = ["cats/a b.jpg", "cats/ü.jpg", "dogs/1.jpg"]
    names += [f"dogs/{'long' * 40}.jpg", "dogs/v1.5 final cut.jpg"] if dialect != "ustar" else []
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(jpeg())
    (tmp_path / "set").mkdir()
    words = ["tar", "--sort=name", f"--format={dialect}", "-C", tmp_path / "in", "-cf", tmp_path / "set" / "a.tar", "."]
    subprocess.run(words, check=True)
    manifest = index_folder(tmp_path / "set")
    assert manifest.classes == ["cats", "dogs"] and manifest.num_labeled == len(names)
    assert sorted(images(tmp_path / "set")) == sorted((tmp_path / "in" / name).read_bytes() for name in names)
    assert ShardFolder(tmp_path / "set").index["label"].tolist() == [0, 0] + [1] * (len(names) - 2)
    assert verify(tmp_path / "set") == []


def test_labels_from_cls_members(tmp_path: Path):
    write(tmp_path / "a" / "1.tar", {"1.cls": b"3\n", "1.jpg": jpeg(), "2.jpg": jpeg(), "3.jpg": jpeg(), "3.cls": b"0"})
    manifest = index_folder(tmp_path / "a")
    assert ShardFolder(tmp_path / "a").index["label"].tolist() == [3, -1, 0]
    assert (manifest.num_labeled, manifest.classes) == (2, ["0", "1", "2", "3"])
    write(tmp_path / "b" / "1.tar", {"1.cls": b"dog", "1.jpg": jpeg(), "2.jpg": jpeg(), "2.cls": b"cat"})
    manifest = index_folder(tmp_path / "b")
    assert ShardFolder(tmp_path / "b").index["label"].tolist() == [1, 0] and manifest.classes == ["cat", "dog"]


def test_what_cannot_be_used_in_place_is_left_out_and_named(tmp_path: Path):
    good = [jpeg(), jpeg(mode="L")]
    members = {"1.jpg": good[0], "2.jpg": jpeg(mode="CMYK"), "3.jpg": jpeg()[:-200], "4.jpg": b"", "5.jpg": good[1]}
    write(tmp_path / "set" / "a.tar", members)
    manifest = index_folder(tmp_path / "set")
    assert images(tmp_path / "set") == good
    assert [bad["source"] for bad in manifest.quarantined] == ["a.tar/2.jpg", "a.tar/3.jpg", "a.tar/4.jpg"]
    assert [
        word in bad["reason"] for word, bad in zip(("cmyk", "truncated", "empty"), manifest.quarantined, strict=True)
    ]
    assert verify(tmp_path / "set") == []


def test_indexing_what_pack_wrote_gives_the_same_index(tmp_path: Path):
    pack("digits", tmp_path / "out", max_samples=200)
    folder = tmp_path / "out" / "test"
    before = {name: (folder / name).read_bytes() for name in ("index.npy", "shard-000001.idx")}
    manifest = ShardFolder(folder).manifest
    (folder / "index.npy").write_bytes(b"")
    (folder / "shard-000001.idx").unlink()
    again = index_folder(folder)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert again == manifest
    assert verify(tmp_path / "out") == []


def test_wrong_folders(tmp_path: Path):
    with pytest.raises(UserError, match=r"no \.tar files"):
        index_folder(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.tar\.gz is compressed"):
        index_folder(tmp_path)
    write(tmp_path / "a.tar", {"1.txt": b"no image"})
    with pytest.raises(UserError, match="no image that can be used"):
        index_folder(tmp_path)
    write(tmp_path / "a.tar", {"1.jpg": jpeg(), "2.jpg": jpeg()})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1600])
    with pytest.raises(UserError, match=r"a\.tar: truncated"):
        index_folder(tmp_path)
    assert not (tmp_path / "manifest.json").exists() and not (tmp_path / "index.npy").exists()
