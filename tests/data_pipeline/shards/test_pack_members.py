"""Images are packed and indexed with what lies beside them."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import levels

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import examine
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.manifest import Manifest, Reading
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.depth_maps import depth_png, depth_values, open_depth
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.pack_members import examine_members
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import verify

TEXTS = {
    "a/0": b"a cat\nthe cat\n",
    "a/1": "\ufeff“chat” 🐈".encode(),
    "b/2": None,
    "b/3": b"",
    "b/4": b"\xff\xfe",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images; two have captions, two have what cannot be used."""
    root = tmp_path_factory.mktemp("captioned")
    for name, text in TEXTS.items():
        path = root / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(levels(12, 16, 3)).save(path)
        if text is not None:
            path.with_suffix(".txt").write_bytes(text)
    (root / "a" / "README.txt").write_text("what lies here")
    return root


def stored(folder: Path) -> dict[str, bytes]:
    """The text of each sample by its source, found by the table."""
    shards, found = ShardFolder(folder), {}
    for row, (tar, place) in enumerate(zip(shards.index["tar"], shards.member("txt"), strict=True)):
        path = shards.tar_path(int(tar))
        with tarfile.open(path) as archive:
            order = sorted({name.split(".")[0] for name in archive.getnames()})
            key = order[row - int((shards.index["tar"] < tar).sum())]
            notes = archive.extractfile(f"{key}.json")
            assert notes is not None
            data = Place(str(path), int(place["offset"]), int(place["size"])).read()
            assert bool(data) == (f"{key}.txt" in archive.getnames())
            found[json.loads(notes.read())["source"]] = data
    return found


def test_captions_are_packed_beside_their_images(source: Path, tmp_path: Path):
    for number, workers in enumerate((1, 2)):
        pack(str(source), tmp_path / str(number), max_samples=2, workers=workers)
    files = {
        number: {path.name: path.read_bytes() for path in (tmp_path / number).rglob("*") if path.is_file()}
        for number in "01"
    }
    assert files["0"] == files["1"] and "txt.npy" in files["0"]
    told = ShardFolder(tmp_path / "0").manifest.members["txt"]
    assert (told.count, told.num_left_out) == (2, 2)
    assert told.left_out == [
        {"source": "b/3.jpg", "reason": "its text is empty"},
        {"source": "b/4.jpg", "reason": "its text is not UTF-8"},
    ]
    expected = {f"{name}.jpg": text or b"" for name, text in TEXTS.items()}
    assert stored(tmp_path / "0") == expected | {"b/4.jpg": b""}
    assert ShardFolder(tmp_path / "0").manifest.num_samples == 5, "an image without captions is a sample"
    skipped = ShardFolder(tmp_path / "0").manifest.skipped
    assert [one.examples for one in skipped] == [["a/README.txt"]]
    assert verify(tmp_path / "0") == []


def test_images_alone_are_packed_as_ever(source: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes((source / "a" / "0.jpg").read_bytes())
    pack(str(tmp_path / "in"), tmp_path / "shards", workers=1)
    files = {path.name for path in (tmp_path / "shards").rglob("*")}
    assert files == {"index.npy", "manifest.json", "shard-000000.idx", "shard-000000.tar"}
    assert "members" not in (tmp_path / "shards" / "manifest.json").read_text()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_give_what_the_folder_gives(source: Path, tmp_path: Path, kind: str):
    archive = shutil.make_archive(str(tmp_path / "set"), kind, source)
    pack(str(source), tmp_path / "folder", workers=1)
    pack(archive, tmp_path / "archive", workers=1)
    found = {name.removeprefix("./"): text for name, text in stored(tmp_path / "archive").items()}
    assert found == stored(tmp_path / "folder")


def test_tars_are_indexed_with_captions_where_they_lie(source: Path, tmp_path: Path):
    pack(str(source), tmp_path / "shards", max_samples=2, workers=1)
    before = ShardFolder(tmp_path / "shards").member("txt").copy()
    for name in ("manifest.json", "index.npy", "members/txt.npy"):
        (tmp_path / "shards" / name).unlink()
    manifest = index_folder(tmp_path / "shards", workers=1)
    assert np.array_equal(ShardFolder(tmp_path / "shards").member("txt"), before)
    assert manifest.members["txt"].num_left_out == 0, "what could not be used is no longer there"
    assert verify(tmp_path / "shards") == []


def test_a_text_that_is_the_label_is_no_caption(source: Path, tmp_path: Path):
    pack(str(source), tmp_path / "shards", workers=1)
    (tmp_path / "shards" / "manifest.json").unlink()
    manifest = index_folder(tmp_path / "shards", workers=1, reading=Reading(label_extension="txt"))
    assert manifest.members == {} and manifest.num_labeled == 2


def test_captions_of_a_file_and_a_killed_pack(source: Path, tmp_path: Path):
    (tmp_path / "c.csv").write_text("file,caption\nb/2.jpg,a dog\n")
    shutil.copytree(source, tmp_path / "source")
    pack(str(tmp_path / "source"), tmp_path / "shards", workers=1, captions=tmp_path / "c.csv")
    assert stored(tmp_path / "shards")["b/2.jpg"] == b"a dog\n"
    (tmp_path / "c.csv").write_text("file,caption\nb/2.jpg,a cat\n")
    with pytest.raises(UserError, match="holds shards of another source or other options"):
        pack(str(tmp_path / "source"), tmp_path / "shards", workers=1, captions=tmp_path / "c.csv")


def test_wrong_tables_are_found(source: Path, tmp_path: Path):
    pack(str(source), tmp_path, workers=1)
    path = tmp_path / "members" / "txt.npy"
    content, manifest = path.read_bytes(), (tmp_path / "manifest.json").read_text()
    path.write_bytes(content[:-1] + b"\1")
    assert any("members/txt.npy: changed since it was written" in line for line in verify(tmp_path))
    rows = np.load(path)
    path.write_bytes(content)
    told = Manifest.from_json(manifest.encode(), path)
    told.members["txt"].count = 3
    (tmp_path / "manifest.json").write_text(told.to_json())
    assert any("members.txt.count 3 is not what the tars hold" in line for line in verify(tmp_path))
    rows = np.load(path)
    rows["crc32"][rows["size"] > 0] ^= 1
    np.save(path, rows)
    told.members["txt"].count, told.members["txt"].sha256 = 2, hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(told.to_json())
    assert any("a place or crc32 is not the member's" in line for line in verify(tmp_path))
    del told.members["txt"]
    (tmp_path / "manifest.json").write_text(told.to_json())
    assert verify(tmp_path) == [], "an older version listed none"
    with pytest.raises(UserError, match=r"have no \.txt beside their images; pack images with theirs"):
        ShardFolder(tmp_path).member("txt")


def test_a_member_that_cannot_be_read_says_why(tmp_path: Path):
    image = examine(depth_png(np.ones((4, 5), np.uint16)), rewrite="so")
    found = examine_members((("txt", Place(str(tmp_path / "gone.txt"), 0, 3)),), image)
    assert found["txt"].problem == "its .txt is unreadable: No such file or directory"


def stored_depths(folder: Path) -> list[np.ndarray]:
    """Of each sample that has a depth map."""
    shards = ShardFolder(folder)
    rows = zip(shards.index["tar"].tolist(), shards.member("depth.png").tolist(), strict=True)
    places = [Place(str(shards.tar_path(tar)), offset, size) for tar, (offset, size, _) in rows if size]
    return [depth_values(open_depth(place.read())) for place in places]


def test_depth_maps_are_packed_exactly_and_shrink_with_their_images(tmp_path: Path):
    (tmp_path / "in").mkdir()
    ramp = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number in range(3):
        picture = Image.fromarray(levels(48, 64, 3))
        picture.save(tmp_path / "in" / f"{number}.jpg", **({"exif": turned} if number == 2 else {}))
        (tmp_path / "in" / f"{number}.depth.png").write_bytes(depth_png(ramp if number else ramp[1:]))
    (tmp_path / "in" / "9.depth.png").write_bytes(depth_png(ramp))  # beside nothing: an image, as ever
    manifest = pack(str(tmp_path / "in"), tmp_path / "whole", workers=1)[""]
    assert (manifest.num_samples, manifest.members["depth.png"].count) == (4, 2)
    (bad,) = manifest.members["depth.png"].left_out
    assert bad == {"source": "0.jpg", "reason": "its depth is 64 x 47 pixels where the image is 64 x 48"}
    found = {values.shape: values for values in stored_depths(tmp_path / "whole")}
    assert np.array_equal(found[48, 64], ramp) and np.array_equal(found[64, 48], np.rot90(ramp, -1))
    assert verify(tmp_path / "whole") == []
    pack(str(tmp_path / "in"), tmp_path / "half", workers=1, resize=24)
    found = {values.shape: values for values in stored_depths(tmp_path / "half")}
    assert np.array_equal(found[24, 32], ramp[1::2, 1::2]) and verify(tmp_path / "half") == []


def test_tars_may_hold_depth_maps_beside_images(tmp_path: Path):
    ramp = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(2):
            stream = io.BytesIO()
            Image.fromarray(levels(48, 64, 3)).save(stream, "JPEG")
            for name, data in (("jpg", stream.getvalue()), ("depth.png", depth_png(ramp))):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    assert index_folder(tmp_path, workers=1).members["depth.png"].count == 2
    assert all(np.array_equal(values, ramp) for values in stored_depths(tmp_path)) and verify(tmp_path) == []
    pack(str(tmp_path / "a.tar"), tmp_path / "packed", workers=1)
    assert all(np.array_equal(values, ramp) for values in stored_depths(tmp_path / "packed"))
