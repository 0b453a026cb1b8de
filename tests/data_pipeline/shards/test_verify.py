"""verify finds every single thing that is wrong."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_pieces import in_pieces
from PIL import Image

from eyespot.data_pipeline.errors import Outage
from eyespot.data_pipeline.shards import verify as subject
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.paged import piece_writer
from eyespot.data_pipeline.shards.paged.piece_writer import Cut, write_index
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import look_at, verify


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 small photographs of two classes in three tars."""
    root = tmp_path_factory.mktemp("verify")
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = root / "in" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(folder / f"{number}.jpg")
    pack(str(root / "in"), root / "out", max_samples=25)
    return root / "out"


@pytest.fixture
def shards(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "shards"))


def edit(shards: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = shards / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def edit_index(shards: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """A lie that is consistent with the manifest's own checksum."""
    index = np.load(shards / "index.npy")
    changed = change(index)
    np.save(shards / "index.npy", index if changed is None else changed)
    digest = hashlib.sha256((shards / "index.npy").read_bytes()).hexdigest()
    edit(shards, lambda fields: fields.update(index_sha256=digest, num_samples=len(np.load(shards / "index.npy"))))


def test_sound_shards_have_no_problems(shards: Path):
    assert verify(shards) == []


def test_a_flipped_byte_is_found_wherever_it_is_and_its_sample_named(shards: Path):
    index = np.load(shards / "index.npy")
    row = int(np.flatnonzero(index["tar"] == 1)[7])
    path = shards / "shard-000001.tar"
    data = path.read_bytes()
    inside = int(index["offset"][row] + index["size"][row] // 2)
    path.write_bytes(data[:inside] + bytes([data[inside] ^ 1]) + data[inside + 1 :])
    problems = verify(shards)
    assert len(problems) == 2 and "shard-000001.tar: changed" in problems[0] and f"sample {row} " in problems[1]
    path.write_bytes(data[:-5] + b"\1" + data[-4:])  # in the padding, where no sample is
    assert ["shard-000001.tar: changed" in problem for problem in verify(shards)] == [True]


@pytest.mark.parametrize("length", [0, 1, 512, 5000, 10240, -512, -1])
def test_a_cut_tar_is_found(shards: Path, length: int):
    path = shards / "shard-000002.tar"
    path.write_bytes(path.read_bytes()[:length])
    assert "shard-000002.tar: truncated" in verify(shards)[0]


def test_missing_and_strange_files(shards: Path):
    (shards / "shard-000000.tar").rename(shards / "stranger.tar")
    problems = verify(shards)
    assert any("stranger.tar: not in the manifest" in problem for problem in problems)
    assert any("shard-000000.tar: missing" in problem for problem in problems)


def test_missing_and_stale_idx(shards: Path):
    (shards / "shard-000000.idx").unlink()
    shutil.copy(shards / "shard-000001.idx", shards / "shard-000002.idx")
    problems = verify(shards)
    assert len(problems) == 2 and "000000.idx: missing" in problems[0] and "000002.idx: stale" in problems[1]


def test_missing_or_damaged_index(shards: Path):
    (shards / "index.npy").write_bytes((shards / "index.npy").read_bytes()[:-1])
    assert "index.npy: unreadable" in verify(shards)[0]
    (shards / "index.npy").unlink()
    assert "index.npy: unreadable" in verify(shards)[0]


def test_an_index_changed_behind_the_manifests_back(shards: Path):
    index = np.load(shards / "index.npy")
    index["label"][3] ^= 1
    np.save(shards / "index.npy", index)
    assert "index.npy: changed since it was written" in verify(shards)[0]


def swap(index: np.ndarray) -> None:
    index["offset"][[0, 1]] = index["offset"][[1, 0]]


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["label"].__setitem__(3, 1 - index["label"][3]),
        lambda index: index["offset"].__setitem__(3, index["offset"][3] + 512),
        lambda index: index["size"].__setitem__(3, index["size"][3] - 1),
        lambda index: index["crc32"].__setitem__(3, 7),
        lambda index: index["height"].__setitem__(3, 11),
        lambda index: index[:-1],
        lambda index: np.concatenate([index[:-1], index[:1]]),
        swap,
    ],
    ids=["label", "offset", "size", "crc32", "height", "one less", "one twice", "swapped"],
)
def test_an_index_that_lies(shards: Path, change: Callable[[np.ndarray], np.ndarray | None]):
    edit_index(shards, change)
    problems = verify(shards)
    assert problems and all("index.npy" in problem or "manifest.json" in problem for problem in problems)


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "num_samples": lambda fields: fields.update(num_samples=61),
    "num_labeled": lambda fields: fields.update(num_labeled=59),
    "one class": lambda fields: fields.update(classes=["class0"]),
    "mean": lambda fields: fields["image_stats"].update(mean=[0.5, 0.5, 0.5]),
    "std": lambda fields: fields["image_stats"].update(std=[0.2, 0.2, 0.2]),
    "height": lambda fields: fields["image_stats"].update(height=[9, 10, 10]),
    "shard's samples": lambda fields: fields["shards"][0].update(num_samples=24),
    "shard's bytes": lambda fields: fields["shards"][0].update(bytes=1),
    "shard's sha256": lambda fields: fields["shards"][0].update(sha256="0" * 64),
    "a shard less": lambda fields: fields["shards"].pop(),
    "shards swapped": lambda fields: fields["shards"].reverse(),
    "another format": lambda fields: fields.update(format="eyespot-shards/0"),
    "a field less": lambda fields: fields.pop("classes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies(shards: Path, lie: str):
    edit(shards, LIES[lie])
    problems = verify(shards)
    assert problems and all("\n" not in problem for problem in problems)


def test_no_shards_at_all(tmp_path: Path):
    assert "no shards inside" in verify(tmp_path)[0]
    assert "no shards inside" in verify(tmp_path / "nowhere")[0]


def test_every_folder_is_looked_at_however_deep_and_each_once(sound: Path, tmp_path: Path):
    for place in ("data/a", "data/b/c/d/train", "data/b/c/d/test", "data/.snapshot/a"):
        shutil.copytree(sound, tmp_path / place)
    shutil.copytree(sound, tmp_path / "data/a/val")  # inside another
    shutil.copytree(sound, tmp_path / "outside")
    (tmp_path / "data/linked").symlink_to(tmp_path / "outside")
    (tmp_path / "data/again").symlink_to("a")
    (tmp_path / "data/b/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/b/up").symlink_to(tmp_path)
    (tmp_path / "data/b/itself").symlink_to("itself")
    found = look_at(tmp_path / "data")
    names = [str(path.relative_to(tmp_path / "data")) for path in found.folders]
    assert names == ["a", "a/val", "b/c/d/test", "b/c/d/train", "linked"]
    assert found.sound == found.folders and not found.problems
    (tmp_path / "data/b/c/d/test/shard-000001.tar").write_bytes(b"")
    (tmp_path / "outside/index.npy").unlink()
    found = look_at(tmp_path / "data")
    assert len(found.folders) == 5 and len(found.sound) == 3
    assert any("d/test/shard-000001.tar: truncated" in problem for problem in found.problems)
    assert any("linked/index.npy" in problem for problem in found.problems)


def test_what_is_no_tar_does_not_keep_the_others_from_being_looked_at(sound: Path, tmp_path: Path):
    for name in ("a", "b"):
        shutil.copytree(sound, tmp_path / name)
    content = b"x" * (tmp_path / "a/shard-000000.tar").stat().st_size
    (tmp_path / "a/shard-000000.tar").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(tmp_path / "a", lambda fields: fields["shards"][0].update(sha256=digest))
    (tmp_path / "b/shard-000002.idx").unlink()
    problems = verify(tmp_path)
    assert any("a/shard-000000.tar" in problem for problem in problems)
    assert any("b/shard-000002.idx" in problem for problem in problems)


def test_a_pack_that_was_not_finished_is_found_however_deep(sound: Path, tmp_path: Path):
    shutil.copytree(sound, tmp_path / "a/b")
    (tmp_path / "a/c/.packing").mkdir(parents=True)
    (tmp_path / "a/c/.packing/plan").write_text("x")
    assert verify(tmp_path) == [f"{tmp_path}/a/c: packing was not finished; run the same eyespot shards pack again"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_file_system_that_fails_is_no_damage(sound: Path, tmp_path: Path, monkeypatch, number: int):
    for name in ("a", "b"):
        shutil.copytree(sound, tmp_path / name)
    real = subject.sha256

    def read(path: Path) -> str:
        if path.parent.name == "a":
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(subject, "sha256", read)
    with pytest.raises(Outage, match=rf"a/shard-000000\.tar: cannot be read \({os.strerror(number)}\)"):
        verify(tmp_path)
    (tmp_path / "b/shard-000002.idx").unlink()
    first, last = verify(tmp_path)
    assert "b/shard-000002.idx" in first and "cannot be read" in last


@pytest.mark.parametrize("size", [(16, 12), (10, 11), (65_535, 12)])
def test_a_size_that_is_not_the_images_is_named(shards: Path, size: tuple[int, int]):
    def change(index: np.ndarray) -> None:
        index["height"][7], index["width"][7] = size

    edit_index(shards, change)
    (problem,) = [problem for problem in verify(shards) if "index.npy" in problem]
    assert re.search(r"(height|width) \d+ of sample 7 is not the image's, \d+ \(1 such\)", problem)


def test_splits_are_all_looked_at(sound: Path, tmp_path: Path):
    for split in ("train", "test"):
        shutil.copytree(sound, tmp_path / split)
    assert verify(tmp_path) == []
    (tmp_path / "test" / "shard-000000.idx").unlink()
    assert "test/shard-000000.idx" in verify(tmp_path)[0]
    (tmp_path / "train" / "manifest.json").unlink()
    assert len(verify(tmp_path)) == 2


def test_tars_without_an_index_hear_what_index_would_say(sound: Path, tmp_path: Path):
    for name in ("mixed", "plain"):
        (tmp_path / name).mkdir()
        for number, split in enumerate(("train", "val") if name == "mixed" else ("a", "b")):
            shutil.copyfile(sound / f"shard-{number:06d}.tar", tmp_path / name / f"{split}.tar")
    (mixed,) = verify(tmp_path / "mixed")
    assert "of several splits by their names (train.tar, val.tar)" in mixed and "shards index" not in mixed
    (plain,) = verify(tmp_path / "plain")
    assert "make it with: eyespot shards index" in plain


CUT = Cut(above=50, piece_rows=32, page_rows=8)


def test_what_pack_and_index_write_in_pieces_is_sound_and_says_the_same(sound: Path, tmp_path: Path, monkeypatch):
    """Above a number of samples; tables of format 1 and of format 2 take each other's place."""
    before = ShardFolder(sound)
    monkeypatch.setattr(piece_writer, "CUT", CUT)
    pack(str(sound.parent / "in"), tmp_path / "packed", max_samples=25)
    shutil.copytree(sound, tmp_path / "indexed")
    index_folder(tmp_path / "indexed", workers=1)
    for name in ("packed", "indexed"):
        found = ShardFolder(tmp_path / name)
        assert found.manifest.pieces is not None and found.manifest.pieces.samples == [32, 28]
        assert np.array_equal(found.index, before.index) and list(found.manifest.shards) == before.manifest.shards
        assert found.manifest.classes == before.manifest.classes and verify(tmp_path / name) == []
        assert not (tmp_path / name / "index.npy").exists()
    assert pack(str(sound.parent / "in"), tmp_path / "packed", max_samples=25)[""].pieces is not None  # it is done
    monkeypatch.setattr(piece_writer, "CUT", Cut())
    index_folder(tmp_path / "indexed", workers=1)
    assert {path.name for path in (tmp_path / "indexed").iterdir()} == {path.name for path in sound.iterdir()}
    assert ShardFolder(tmp_path / "indexed").manifest_sha256 == before.manifest_sha256


LIES_IN_PIECES: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "a label": (lambda rows: rows["label"].__setitem__(3, 1 - rows["label"][3]), "index: 1 rows that no tar bears out"),
    "a size": (lambda rows: rows["width"].__setitem__(40, 9), "index: width 9 of sample 40 is not the image's, 12"),
    "twice": (lambda rows: rows.__setitem__(7, rows[8]), "index: lists 1 sample twice"),
}


@pytest.mark.parametrize("lie", LIES_IN_PIECES)
def test_an_index_in_pieces_that_lies(lie: str, shards: Path):
    found, (change, expected) = ShardFolder(shards), LIES_IN_PIECES[lie]
    rows = found.index.copy()
    change(rows)
    (shards / "manifest.json").write_text(write_index(shards, found.manifest, rows, CUT).to_json())
    assert any(expected in problem for problem in verify(shards))


def test_damage_of_shards_in_pieces_is_named(sound: Path, tmp_path: Path):
    folder = in_pieces(sound, tmp_path / "pieces", CUT)
    content = bytearray((folder / "index" / "000001.npy").read_bytes())
    content[-1] ^= 1
    (folder / "index" / "000001.npy").write_bytes(content)
    (problem,) = verify(folder)
    assert "000001.npy: changed since it was written" in problem
    folder = in_pieces(sound, tmp_path / "tars", CUT)
    row = ShardFolder(folder).index[30]
    with (folder / "shard-000001.tar").open("r+b") as file:
        file.seek(int(row["offset"]) + 50)
        file.write(b"?")
    problems = verify(folder)
    assert "shard-000001.tar: changed since it was packed" in problems[0] and "sample 30 (offset" in problems[1]
