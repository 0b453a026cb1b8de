"""Folders, tars, IDX files and named sets become the right items, splits and labels."""

import gzip
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import encode_png
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.manifest import Reading, Skipped
from eyespot.data_pipeline.shards.members.items import Source, read_item
from eyespot.data_pipeline.shards.sources import CALTECH10, open_source

PNG = encode_png(bytes(16), (4, 4))


def grow(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def labels(source: Source) -> dict[str, dict[str, str | None]]:
    """{split: {name: class}}."""
    return {
        split: {item.name: source.classes[item.label] if item.label >= 0 else None for item in items}
        for split, items in source.splits.items()
    }


def opened(root: Path, tmp_path: Path, how: str) -> Source:
    spool = tmp_path / "spool"
    spool.mkdir()
    if how == "folder":
        return open_source(str(root), spool)
    flag = {"tar": "", "tar.gz": "z", "tar.bz2": "j", "tar.xz": "J"}[how]
    archive = tmp_path / f"{root.name}.{how}"
    subprocess.run(["tar", f"-c{flag}f", archive, "-C", root.parent, root.name], check=True)
    return open_source(str(archive), spool)


LAYOUTS = {
    "classes": (
        ["cat/1.png", "dog/1.png", "cat/2.png"],
        {"": {"cat/1.png": "cat", "cat/2.png": "cat", "dog/1.png": "dog"}},
    ),
    "flat": (["1.png", "2.png"], {"": {"1.png": None, "2.png": None}}),
    "splits": (
        ["train/cat/1.png", "train/dog/1.png", "val/cat/9.png"],
        {
            "train": {"train/cat/1.png": "cat", "train/dog/1.png": "dog"},
            "test": {"val/cat/9.png": "cat"},
        },
    ),
    "three splits": (
        ["Train/cat/1.png", "test/dog/1.png", "val/cat/9.png"],
        {"train": {"Train/cat/1.png": "cat"}, "test": {"test/dog/1.png": "dog"}, "val": {"val/cat/9.png": "cat"}},
    ),
    "flat splits": (["train/1.png", "test/1.png"], {"train": {"train/1.png": None}, "test": {"test/1.png": None}}),
    "one split": (
        ["train/cat/1.png", "train/dog/1.png"],
        {"train": {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}},
    ),
    "a class called train": (
        ["train/1.png", "plane/1.png"],
        {"": {"train/1.png": "train", "plane/1.png": "plane"}},
    ),
    "shared folders": (["a/b/cat/1.png", "a/b/dog/1.png"], {"": {"a/b/cat/1.png": "cat", "a/b/dog/1.png": "dog"}}),
    "deep classes": (["cat/x/1.png", "dog/y/1.png"], {"": {"cat/x/1.png": "cat", "dog/y/1.png": "dog"}}),
    "some without": (
        ["cat/1.png", "dog/1.png", "2.png"],
        {"": {"2.png": None, "cat/1.png": "cat", "dog/1.png": "dog"}},
    ),
    "hostile names": (
        ["cät/a b.c.png", "cät/\n.png", "d og/" + "x" * 200 + ".PNG"],
        {"": {"cät/a b.c.png": "cät", "cät/\n.png": "cät", "d og/" + "x" * 200 + ".PNG": "d og"}},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", ["folder", "tar", "tar.gz"])
def test_layouts(tmp_path: Path, layout: str, how: str):
    names, expected = LAYOUTS[layout]
    root = grow(tmp_path / "set", *names)
    source = opened(root, tmp_path, how)
    found = labels(source)
    if how != "folder":  # the tar holds the folder itself; its names say so, its labels do not
        expected = {split: {f"set/{name}": label for name, label in items.items()} for split, items in expected.items()}
    assert found == expected
    assert source.name == "set"
    assert all(read_item(item) == PNG for items in source.splits.values() for item in items)
    assert all([item.name for item in items] == sorted(item.name for item in items) for items in source.splits.values())


@pytest.mark.parametrize("how", ["tar.bz2", "tar.xz"])
def test_other_compressions(tmp_path: Path, how: str):
    assert labels(opened(grow(tmp_path / "set", "a/1.png", "b/1.png"), tmp_path, how))[""] == {
        "set/a/1.png": "a",
        "set/b/1.png": "b",
    }


def test_what_is_no_image_is_skipped_and_counted(tmp_path: Path):
    root = grow(tmp_path / "set", "train/a/1.png", "train/b/1.png", "test/a/1.png", "logo.png", "train/a/._1.png")
    (root / "README.md").write_text("read me")
    source = opened(root, tmp_path, "folder")
    assert {one.reason: one.examples for one in source.skipped.listed()} == {
        "not an image (.md)": ["README.md"],
        "outside the folders of the splits": ["logo.png"],
        "macOS's notes (._*, __MACOSX)": ["train/a/._1.png"],
    }
    assert [len(items) for items in source.splits.values()] == [1, 2]


def test_names_that_are_no_unicode(tmp_path: Path):
    root = grow(tmp_path / "set", "a/1.png", "b/1.png")
    (root / "a").rename(os.fsdecode(os.fsencode(root) + b"/\xff\xfe"))
    source = opened(root, tmp_path, "folder")
    assert source.classes == ["\\xff\\xfe", "b"]
    assert read_item(source.splits[""][0]) == PNG


def test_links_are_followed_once(tmp_path: Path):
    root = grow(tmp_path / "set", "a/1.png")
    grow(tmp_path / "elsewhere", "1.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "loop").symlink_to(root)
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = opened(root, tmp_path, "folder")
    assert [item.name for item in source.splits[""]] == ["a/1.png", "a/gone.png", "b/1.png"]
    with pytest.raises(FileNotFoundError):  # the packer names it
        read_item(source.splits[""][1])


def test_the_photographs_of_the_package(tmp_path: Path):
    """2,000 of ten classes, small, and no picture twice: neither its bytes nor its look is in both splits."""
    source = open_source("caltech10", tmp_path)
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 1401, "test": 599}
    assert (source.name, len(source.classes), source.skipped.total) == ("caltech10", 10, 0)
    assert CALTECH10.stat().st_size < 6_000_000
    looks = []
    for items in source.splits.values():
        assert min(np.bincount([item.label for item in items])) >= 28
        images = [Image.open(io.BytesIO(read_item(item))) for item in items]
        assert {min(image.size) for image in images} == {72}
        gray = np.stack([np.asarray(image.convert("L").resize((17, 16)), np.int16) for image in images])
        looks.append((gray[:, :, 1:] > gray[:, :, :-1]).reshape(len(items), -1).astype(np.float32))
    train, test = looks
    differing = train @ (1 - test).T + (1 - train) @ test.T
    assert differing.min() > 10  # of 256 bits
    assert len({read_item(item) for items in source.splits.values() for item in items}) == 2000


def test_what_a_killed_pack_unpacked_is_replaced(tmp_path: Path):
    opened(grow(tmp_path / "set", "1.png", "2.png"), tmp_path, "tar.gz")
    source = open_source(str(tmp_path / "set.tar.gz"), tmp_path / "spool")
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["source.tar"]
    assert [read_item(item) for item in source.splits[""]] == [PNG, PNG]


@pytest.mark.parametrize("content", [b"", b"no archive at all", gzip.compress(b"no tar inside", mtime=0)])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes):
    (tmp_path / "set.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match="neither a folder nor a tar"):
        open_source(str(tmp_path / "set.tar.gz"), tmp_path)


@pytest.mark.parametrize("how", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_cut_archive_is_refused(tmp_path: Path, how: str):
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / f"whole.{how}", f"w:{how[4:]}") as archive:
        for number in range(200):
            member = tarfile.TarInfo(f"{number % 2}/{number}.png")
            member.size = 1000
            archive.addfile(member, io.BytesIO(rng.bytes(1000)))
    data = (tmp_path / f"whole.{how}").read_bytes()
    path = tmp_path / f"cut.{how}"
    path.write_bytes(data[: len(data) // 2])
    (tmp_path / "spool").mkdir()
    with pytest.raises(UserError, match=r"damaged|truncated|neither"):
        open_source(str(path), tmp_path / "spool")


def test_nothing_to_pack(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        open_source(str(tmp_path / "nowhere"), tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"no image files inside \(1 other"):
        open_source(str(tmp_path / "set"), tmp_path)


@pytest.mark.parametrize("how", ["tar", "tar.gz"])
def test_a_webdataset_tar_keeps_its_labels(tmp_path: Path, how: str):
    root = grow(tmp_path / "set", "1.png", "2.png", "3.png")
    for name, text in (("1", "10"), ("2", "9"), ("3", "-1")):
        (root / f"{name}.cls").write_text(text)
    source = opened(root, tmp_path, how)
    assert labels(source)[""] == {"set/1.png": "10", "set/2.png": "9", "set/3.png": None}


def test_a_folder_of_tars_is_one_source_with_their_splits(tmp_path: Path):
    (tmp_path / "set").mkdir()
    for name in ("train-0", "train-1", "val-0"):
        root = grow(tmp_path / name, f"{name}.png")
        (root / f"{name}.cls").write_text("cat" if name == "train-0" else "dog")
        subprocess.run(["tar", "-cf", tmp_path / "set" / f"{name}.tar", "-C", root, "."], check=True)
    expected = {
        "train": {"train-0.tar/./train-0.png": "cat", "train-1.tar/./train-1.png": "dog"},
        "test": {"val-0.tar/./val-0.png": "dog"},
    }
    assert labels(open_source(str(tmp_path / "set"), tmp_path)) == expected
    (tmp_path / "set" / "val-0.tar").rename(tmp_path / "set" / "more.tar")
    assert list(open_source(str(tmp_path / "set"), tmp_path).splits) == [""]
    (tmp_path / "set" / "train-0.tar").rename(tmp_path / "set" / "test.tar")
    with pytest.raises(UserError, match="of several splits by their names"):
        open_source(str(tmp_path / "set"), tmp_path)


@pytest.mark.parametrize("classes", ["top", "last"])
def test_class_folders_in_folders(tmp_path: Path, classes: str):
    root = grow(tmp_path / "set", "a/abbey/1.png", "a/alley/1.png", "b/bar/1.png")
    source = open_source(str(root), tmp_path, reading=Reading(class_folder=classes))
    assert source.classes == (["a", "b"] if classes == "top" else ["abbey", "alley", "bar"])
    assert "3 images lie in folders within folders" in source.notes[0]


def test_one_split_folder_that_all_share_is_no_class(tmp_path: Path):
    root = grow(tmp_path / "set", "val/cat/1.png", "val/dog/1.png")
    assert labels(open_source(str(root), tmp_path)) == {"": {"val/cat/1.png": "cat", "val/dog/1.png": "dog"}}


def test_a_tar_with_images_of_two_kinds_in_a_sample_asks(tmp_path: Path):
    root = grow(tmp_path / "set", "1.png", "1.small.png", "2.png")
    with pytest.raises(
        UserError, match=r"1 holds several images \(\.small\.png, \.png\).*--image-extension png.*--key"
    ):
        opened(root, tmp_path, "tar")
    archive = str(tmp_path / "set.tar")
    chosen = open_source(archive, tmp_path, reading=Reading(image_extension=(".PNG",)))
    assert [item.name for item in chosen.splits[""]] == ["set/1.png", "set/2.png"]
    assert [one.examples for one in chosen.skipped.listed() if "asked for" in one.reason] == [
        ["set.tar/set/1.small.png"]
    ]
    assert len(open_source(archive, tmp_path, reading=Reading(key="last-dot")).splits[""]) == 3


def test_dots_in_the_names_of_a_plain_tar_merge_nothing(tmp_path: Path):
    root = grow(tmp_path / "set", *(f"IMG_2022.05.{day:02d}.png" for day in range(1, 9)))
    assert len(opened(root, tmp_path, "tar").splits[""]) == 8


def test_a_zip(tmp_path: Path):
    names = ["cat/1.png", "dog\\2.PNG", "cat/notes.txt", "__MACOSX/cat/._1.png", "cat/more.zip", "empty/"]
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, PNG if name.lower().endswith("png") else "")
    source = open_source(str(tmp_path / "pets.zip"), tmp_path)
    assert source.name == "pets" and labels(source) == {"": {"cat/1.png": "cat", "dog/2.PNG": "dog"}}
    assert all(read_item(item) == PNG for item in source.splits[""])
    assert {one.reason.split(" (")[0] for one in source.skipped.listed()} == {
        "a folder", "an archive inside", "macOS's notes", "not an image",
    }  # fmt: skip
    data = bytearray((tmp_path / "pets.zip").read_bytes())
    data[45] ^= 255  # in the first image
    (tmp_path / "pets.zip").write_bytes(data)
    with pytest.raises(UserError, match="a zip that cannot be read"):
        open_source(str(tmp_path / "pets.zip"), tmp_path)


def test_pipes_and_tars_beside_the_images_are_named(tmp_path: Path):
    root = grow(tmp_path / "set", "1.png")
    os.mkfifo(root / "2.png")
    subprocess.run(["tar", "-cf", root / "more.tar", "-C", root, "1.png"], check=True)
    source = open_source(str(root), tmp_path)
    assert [item.name for item in source.splits[""]] == ["1.png"]
    assert sorted(one.examples[0] for one in source.skipped.listed()) == ["2.png", "more.tar"]


def test_what_an_index_has_written_beside_tars_is_not_among_the_skipped(tmp_path: Path):
    folder = tmp_path / "set"
    folder.mkdir()
    subprocess.run(["tar", "-cf", folder / "a.tar", "-C", grow(tmp_path / "in", "1.png"), "."], check=True)
    index_folder(folder, workers=1)
    assert {path.name for path in folder.iterdir()} == {"a.tar", "a.idx", "index.npy", "manifest.json"}
    (folder / "other.npy").touch()
    skipped = [one for one in open_source(str(folder), tmp_path).skipped.listed() if one.reason != "a folder"]
    assert skipped == [
        Skipped(reason="an array (.npy): packed as bands, with --bands", count=1, examples=["other.npy"])
    ]


def test_a_zip_that_was_made_to_fill_disks(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", PNG)
        archive.writestr("a/bomb.bmp", bytes(2**26 + 1))
        with archive.open("b/2.png", "w", force_zip64=True) as file:
            file.write(PNG)
        archive.writestr(zipfile.ZipInfo("b/../../3\x1b.png"), PNG)  # stored, and named as nobody names files
    source = open_source(str(tmp_path / "set.zip"), tmp_path)
    assert [read_item(item) for item in source.splits[""]] == [PNG] * 3
    assert [(one.reason, one.examples) for one in source.skipped.listed()] == [
        ("a file that grows more than 200 times when it is unpacked (a bomb)", ["a/bomb.bmp"])
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"set.zip", "source.zip.raw"}
