"""Tars of other tools are indexed where they lie."""

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from shapes import levels

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.manifest import Manifest, Reading
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import verify


def jpeg(height: int = 20, width: int = 30, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels(height, width, 3)).convert(mode).save(stream, "JPEG")
    return stream.getvalue()


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels(20, 30, 3)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def webp() -> bytes:
    return encoded("WEBP")


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


def skipped(manifest: Manifest) -> dict[str, int]:
    return {one.reason: one.count for one in manifest.skipped}


def test_every_member_is_in_the_index_or_counted(tmp_path: Path):
    members = {
        "a/1.jpg": jpeg(),
        "a/1.JSON": b"{}",
        "a/2.jpg": b"",
        "b/3.webp": webp(),
        "b/4.nef": b"raw",
        "noext": b"x",
    }
    members |= {"b/._3.webp": b"x", "b/inner.tar": b"", "b/5.cls": b"1", "b/6.seg.png": b"x"}
    write(tmp_path / "set" / "x.tar", members)
    with tarfile.open(tmp_path / "set" / "x.tar", "a") as archive:
        for name, kind in (("b/7.jpg", tarfile.LNKTYPE), ("b/8.jpg", tarfile.SYMTYPE), ("c", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a/1.jpg"
            archive.addfile(member)
        num_members = len(members) + 3
    (tmp_path / "set" / "more.tar.gz").write_bytes(b"")
    manifest = index_folder(tmp_path / "set", workers=1)
    assert skipped(manifest) == {
        "a link": 2, "a folder": 1, "not an image (.json)": 1, "not an image (.nef)": 1, "no extension": 1,
        "macOS's notes (._*, __MACOSX)": 1, "an archive inside (.tar): unpack it first": 1,
        "a label without an image": 1, "a mask without an image": 1, "a compressed tar: unpack it first": 1,
    }  # fmt: skip
    found = manifest.num_samples + len(manifest.quarantined) + sum(skipped(manifest).values()) - 1  # of the .tar.gz
    assert found == num_members
    assert "1 image cannot be used in place, but eyespot shards pack" in manifest.notes[-1]
    assert ShardFolder(tmp_path / "set").manifest == manifest and verify(tmp_path / "set") == []


def test_flags_are_remembered_by_the_manifest(tmp_path: Path):
    photos = {f"IMG_2022.05.{day:02d}.jpg": jpeg(20 + day) for day in range(1, 9)}
    write(tmp_path / "set" / "a.tar", photos)
    with pytest.raises(UserError, match=r"IMG_2022 holds several images .*--key last-dot"):
        index_folder(tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()
    manifest = index_folder(tmp_path / "set", reading=Reading(key="last-dot"))
    assert manifest.num_samples == 8 and images(tmp_path / "set") == list(photos.values())
    assert verify(tmp_path / "set") == []


def test_keys_that_repeat_are_samples_of_their_own(tmp_path: Path):
    files = [jpeg(20 + number) for number in range(4)]
    (tmp_path / "set").mkdir()
    parts = []
    for half in (files[:2], files[2:]):
        write(tmp_path / "part.tar", {f"{key}.jpg": data for key, data in enumerate(half)})
        parts.append((tmp_path / "part.tar").read_bytes())
    (tmp_path / "set" / "a.tar").write_bytes(b"".join(parts))  # cat x.tar y.tar
    assert index_folder(tmp_path / "set").num_samples == 4 and images(tmp_path / "set") == files
    assert verify(tmp_path / "set") == []


def test_names_that_are_not_utf8(tmp_path: Path):
    names = ["caf\xe9/b\xe4r 1.jpg", "caf\xe9/b\xe4r 2.jpg", "caf\xe8/3.jpg", "caf\xe8/4.jpg"]
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "a.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            data = jpeg() if "4" not in name else b"broken"
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    manifest = index_folder(tmp_path / "set")
    assert manifest.classes == ["caf\\xe8", "caf\\xe9"] and manifest.num_samples == 3
    assert manifest.quarantined[0]["source"] == "a.tar/caf\\xe8/4.jpg"
    assert ShardFolder(tmp_path / "set").manifest == manifest and verify(tmp_path / "set") == []
    os.rename(os.fsencode(tmp_path / "set" / "a.tar"), os.fsencode(tmp_path / "set") + b"/\xe4.tar")  # noqa: PTH104
    with pytest.raises(UserError, match=r"\\xe4\.tar: its name is not UTF-8"):
        index_folder(tmp_path / "set")


def test_turned_photos_are_counted(tmp_path: Path):
    members = {}
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        members[f"{orientation}.jpg"] = encoded("JPEG", exif=tags)
    members["xmp.jpg"] = encoded("JPEG", xmp=b'<x tiff:Orientation="6"/>')
    members["png.png"] = encoded("PNG", exif=tags)
    write(tmp_path / "set" / "a.tar", members)
    manifest = index_folder(tmp_path / "set")
    assert manifest.num_samples == 10 and "9 of 10 images are turned by EXIF" in manifest.notes[0]


def test_splits_in_one_folder_are_refused(tmp_path: Path):
    write(tmp_path / "set" / "train-0.tar", {"1.jpg": jpeg()})
    write(tmp_path / "set" / "val-0.tar", {"1.jpg": jpeg()})
    with pytest.raises(UserError, match="several splits by their names"):
        index_folder(tmp_path / "set")
    (tmp_path / "set" / "val-0.tar").unlink()
    write(tmp_path / "set" / "train-0.tar", {"train/a/1.jpg": jpeg(), "val/a/1.jpg": jpeg()})
    with pytest.raises(UserError, match=r"several splits in folders \(test, train\)"):
        index_folder(tmp_path / "set")


@pytest.mark.parametrize("class_folder", ["top", "last"])
def test_index_and_pack_find_the_same_classes(tmp_path: Path, class_folder: str):
    names = ["a/abbey/1.jpg", "a/alley/1.jpg", "b/bar/1.jpg", "b/2.jpg"]
    write(tmp_path / "set" / "a.tar", {f"data/{name}": jpeg(20 + place) for place, name in enumerate(names)})
    reading = Reading(class_folder=class_folder)
    indexed = index_folder(tmp_path / "set", reading=reading)
    packed = pack(str(tmp_path / "set" / "a.tar"), tmp_path / "out", reading=reading)[""]
    assert (
        indexed.classes == packed.classes == {"top": ["a", "b"], "last": ["abbey", "alley", "b", "bar"]}[class_folder]
    )
    labels = [
        dict(ShardFolder(folder).index[["height", "label"]].tolist()) for folder in (tmp_path / "set", tmp_path / "out")
    ]
    assert labels[0] == labels[1] and verify(tmp_path / "set") == []


def test_pack_rewrites_labelled_samples_with_their_masks(tmp_path: Path):
    mask = encoded("PNG", mode="L")
    members = {
        "1.webp": webp(),
        "1.cls": b"10",
        "1.seg.png": mask,
        "2.webp": webp(),
        "2.cls": b"9",
        "3.bmp": encoded("BMP"),
    }
    write(tmp_path / "set" / "a.tar", members)
    manifest = pack(str(tmp_path / "set"), tmp_path / "out")[""]
    assert (manifest.num_samples, manifest.num_labeled, len(manifest.classes)) == (3, 2, 11)
    assert manifest.converted == {"bmp": 1, "webp": 2} and manifest.masks and manifest.masks.num_masks == 1
    shards = ShardFolder(tmp_path / "out")
    assert shards.index["label"][shards.masks["size"] > 0].tolist() == [10]
    assert verify(tmp_path / "out") == []


def test_max_pixels_leaves_out_and_names(tmp_path: Path):
    write(tmp_path / "set" / "a.tar", {"1.jpg": jpeg(20, 30), "2.jpg": jpeg(40, 30)})
    manifest = index_folder(tmp_path / "set", max_pixels=600)
    assert manifest.num_samples == 1 and manifest.quarantined[0]["source"] == "a.tar/2.jpg"
    assert "--max-pixels" in manifest.quarantined[0]["reason"] and verify(tmp_path / "set") == []
    packed = pack(str(tmp_path / "set" / "a.tar"), tmp_path / "out", max_pixels=600)[""]
    assert packed.num_samples == 1 and packed.packing["max_pixels"] == 600


def test_beyond_the_names_that_a_manifest_holds_verify_still_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in ("index_tars", "verify", "members.skipped"):
        monkeypatch.setattr(f"eyespot.data_pipeline.shards.{module}.MOST_QUARANTINED", 3)
    write(tmp_path / "set" / "a.tar", {f"{number}.jpg": jpeg() if number % 2 else b"" for number in range(12)})
    manifest = index_folder(tmp_path / "set")
    assert len(manifest.quarantined) == 3 and skipped(manifest) == {"empty file": 3} and manifest.num_samples == 6
    assert verify(tmp_path / "set") == []


def test_photos_where_tars_are_wanted(tmp_path: Path):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    with pytest.raises(UserError, match=r"no \.tar files inside; it holds images, not shards; .*eyespot shards pack"):
        index_folder(tmp_path)


def test_wrong_folders(tmp_path: Path):
    with pytest.raises(UserError, match=r"no \.tar files"):
        index_folder(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.tar\.gz is a compressed tar"):
        index_folder(tmp_path)
    write(tmp_path / "a.tar", {"1.txt": b"no image"})
    with pytest.raises(UserError, match="no image that can be used"):
        index_folder(tmp_path)
    write(tmp_path / "a.tar", {"1.jpg": jpeg(), "2.jpg": jpeg()})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1600])
    with pytest.raises(UserError, match=r"a\.tar: truncated"):
        index_folder(tmp_path)
    assert not (tmp_path / "manifest.json").exists() and not (tmp_path / "index.npy").exists()


@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("gone")])
def test_what_stands_in_a_tars_place_is_named(put, tmp_path):
    put(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"no \.tar files inside; a\.tar is no plain file"):
        index_folder(tmp_path, workers=1)
