"""Pictures that are learned from and held out at once are counted and named, and only those."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.cluster.commands.shards import main
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.split_overlap import overlaps, shared


def photos(folder: Path, seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"class{number % 2}" / f"{seed}-{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (10, 12, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """30 to learn from, 20 held out, of which five are copies, two of them of the same one."""
    folder = tmp_path_factory.mktemp("overlap")
    photos(folder / "train", 0, 30)
    photos(folder / "test", 1, 15)
    for number, copied in enumerate([2, 9, 9, 14, 27]):
        original = folder / "train" / f"class{copied % 2}" / f"0-{copied}.jpg"
        shutil.copy(original, folder / "test" / "class0" / f"copy-{number}.jpg")
    return folder


@pytest.fixture
def packed(source, tmp_path) -> Path:
    pack(str(source), tmp_path / "out", max_samples=7, workers=1)
    return tmp_path / "out"


def files_of(shards: ShardFolder) -> list[bytes]:
    tars = [shards.tar_path(number).read_bytes() for number in range(len(shards.manifest.shards))]
    return [tars[row["tar"]][row["offset"] : row["offset"] + row["size"]] for row in shards.index]


def test_they_are_those_that_a_comparison_of_all_files_finds(packed):
    learned, held_out = ShardFolder(packed / "train"), ShardFolder(packed / "test")
    (found,) = overlaps([packed / "test", packed / "train"])
    all_learned, all_held_out = files_of(learned), files_of(held_out)
    assert [row for row, _ in found.samples] == [k for k, file in enumerate(all_held_out) if file in all_learned]
    assert all(all_held_out[row] == all_learned[other] for row, other in found.samples)
    assert len(found.samples) == 5 and found.num_held_out == 20
    assert "test: 5 of 20 images are in" in str(found) and "\n" not in str(found)


def test_what_only_has_the_same_checksum_and_size_is_another(packed):
    for split in ("train", "test"):
        rows, manifest = np.load(packed / split / "index.npy"), packed / split / "manifest.json"
        rows["crc32"] = 7
        np.save(packed / split / "index.npy", rows)
        digest = hashlib.sha256((packed / split / "index.npy").read_bytes()).hexdigest()
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"index_sha256": digest}))
    found = shared(ShardFolder(packed / "train"), ShardFolder(packed / "test"))
    learned, held_out = (files_of(ShardFolder(packed / split)) for split in ("train", "test"))
    assert found is not None
    assert [row for row, _ in found.samples] == [k for k, file in enumerate(held_out) if file in learned]
    assert len(found.samples) == 5


def test_neighbours_that_nobody_learns_from_are_not_compared(packed, tmp_path):
    shutil.copytree(packed / "test", packed / "val")
    shutil.copytree(packed / "test", tmp_path / "elsewhere" / "test")
    folders = [packed / "test", packed / "val", tmp_path / "elsewhere" / "test"]
    assert not list(overlaps(folders))
    assert [found.held_out.name for found in overlaps([*folders, packed / "train"])] == ["test", "val"]


def test_pack_and_verify_say_how_many(source, tmp_path, capsys):
    assert main(["pack", str(source), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert capsys.readouterr().out.count("test: 5 of 20 images are in") == 1
    assert main(["verify", str(tmp_path), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("test: 5 of 20 images are in") == 1 and "all is well (2 shard folders)" in said


def test_parts_that_share_nothing_are_not_spoken_of(tmp_path, capsys):
    photos(tmp_path / "in", 5, 30)
    assert main(["pack", str(tmp_path / "in"), str(tmp_path / "out"), "--holdout", "0.3", "--workers", "1"]) == 0
    assert "byte by byte" not in capsys.readouterr().out


def test_samples_of_frames_that_share_half_of_them(tmp_path):
    draw = np.random.default_rng(3)
    black, held = np.zeros((10, 12, 3), np.uint8), []
    for split, video, count in (("train", "a", 4), ("train", "b", 4), ("test", "c", 4), ("test", "d", 4)):
        for number in range(count):
            path = tmp_path / "in" / split / video / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, black.shape, np.uint8)).save(path)
    for video in ("train/a", "train/b", "test/c", "test/d"):  # a black frame that begins all of them says nothing
        Image.fromarray(black).save(tmp_path / "in" / video / "0.png")
    shutil.copy(tmp_path / "in" / "train" / "b" / "3.png", tmp_path / "in" / "test" / "d" / "1.png")
    pack(str(tmp_path / "in"), tmp_path / "out", reading=Reading(frames="folder"))
    (found,) = overlaps([tmp_path / "out" / "test", tmp_path / "out" / "train"])
    for shards, sample in zip(("test", "train"), found.samples[0], strict=True):
        tar = ShardFolder(tmp_path / "out" / shards).tar_path(0)
        with tarfile.open(tar) as archive:
            held.append(json.load(archive.extractfile(f"{sample:08d}.json"))["source"])
    assert len(found.samples) == 1 and held[0] == "test/d" and held[1].startswith("train/")
    assert "1 of 2 samples have at least half of their frames in" in str(found) and "\n" not in str(found)
