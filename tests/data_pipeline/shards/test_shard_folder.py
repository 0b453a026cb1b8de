"""ShardFolder: found, read and checked once; damage is one line; a folder replaced meanwhile changes nothing."""

import errno
import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.atomic_files import npy_bytes, write_bytes
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, MASK_DTYPE, Masks
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture
def shards(digit_shards, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(digit_shards, tmp_path / "shards"))


def one_line(caught: pytest.ExceptionInfo, *words: str) -> None:
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_it_knows_what_the_files_say(shards):
    found = ShardFolder(shards)
    assert found.manifest_sha256 == hashlib.sha256((shards / "manifest.json").read_bytes()).hexdigest()
    assert np.array_equal(found.index, np.load(shards / "index.npy")) and found.index.dtype == INDEX_DTYPE
    assert type(found.index) is np.ndarray and not found.index.flags.writeable
    assert found.tar_path(1) == shards / found.manifest.shards[1].tar
    found.check()


def test_a_data_set_of_splits_and_one_without(digits):
    train = ShardFolder.find(digits)
    assert (train.path, train.named, train.is_split) == (digits / "train", digits, True)
    test = train.split("test")
    assert test is not None and test.path == digits / "test" and test is train.split("test")
    assert train.split("val") is None
    assert ShardFolder.find(digits, "test", "train").path == digits / "test"
    assert ShardFolder.find(digits, "val", "train").path == digits / "train"
    alone = ShardFolder.find(digits / "train")
    assert (alone.path, alone.named, alone.is_split, alone.split("test")) == (digits / "train",) * 2 + (False, None)


def test_what_lies_in_a_shard_folder_is_no_split_of_it(shards, digits):
    shutil.copytree(digits / "test", shards / "test")
    assert ShardFolder.find(shards).split("test") is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", ("no such folder", "eyespot shards pack SRC")),
        ("empty", ("no manifest.json inside", "eyespot shards pack SRC")),
        ("file", ("a file, not a folder",)),
        ("photos", ("holds images, not shards", "eyespot shards pack", "photos DST")),
        ("tars", ("index the tars that lie there: eyespot shards index", "tars/train")),
        ("sets", ("name one of the data sets inside: ", "sets/birds")),
        ("folder", ("no manifest.json inside",)),
    ],
)
def test_no_shards_are_one_line(name, words, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    finished = ("sets/birds/train/0.tar", "sets/birds/train/index.npy", "sets/birds/train/manifest.json")
    for file in ("photos/cat/1.JPG", "tars/train/0.tar", *finished):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        ShardFolder.find(tmp_path / name)
    one_line(caught, f"shards {tmp_path / name}", *words)


@pytest.mark.parametrize(("kind", "word"), [("absent", "missing"), ("folder", "unreadable")])
def test_a_manifest_that_cannot_be_read_is_one_line(kind, word, tmp_path):
    if kind == "folder":
        (tmp_path / "manifest.json").mkdir()
    with pytest.raises(UserError) as caught:
        ShardFolder(tmp_path)
    one_line(caught, f"{tmp_path / 'manifest.json'}: {word}", "eyespot shards index")


def other_rows(shards: Path) -> np.ndarray:
    """Rows of the same number and type."""
    index = np.load(shards / "index.npy")
    index["label"][5] += 1
    return index


DAMAGE = {
    "missing": (lambda path: path.unlink(), "unreadable"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "unreadable"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable"),
    "no array": (lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 500), "unreadable"),
    "half a header": (lambda path: path.write_bytes(path.read_bytes()[:50]), "unreadable"),
    "too short": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "unreadable"),
    "too long": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "changed since it was written"),
    "fewer rows": (lambda path: np.save(path, np.load(path)[:-1]), "rows of .* where the manifest says 1438"),
    "more rows": (lambda path: np.save(path, np.load(path)[[0, *range(1438)]]), "changed since it was written"),
    "a table": (lambda path: np.save(path, np.load(path)[None]), "where the manifest says 1438"),
    "other columns": (lambda path: np.save(path, np.load(path)["label"]), "rows of int32 where"),
    "pickled": (lambda path: np.save(path, np.array([{}] * 1438)), "rows of object where"),
    "other rows": (lambda path: np.save(path, other_rows(path.parent)), "changed since it was written"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_index_is_one_line(kind, shards):
    do, reason = DAMAGE[kind]
    do(shards / "index.npy")
    found = ShardFolder(shards)  # the manifest is well, and may be all that is wanted
    with pytest.raises(UserError, match=reason) as caught:
        _ = found.index
    one_line(caught, f"{shards / 'index.npy'}: ", "make it anew: eyespot shards index")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_an_index_of_any_npy_version_is_read(version, shards):
    """Other tools write their rows with a later version than NumPy chooses for them."""
    rows, path, manifest = np.load(shards / "index.npy"), shards / "index.npy", shards / "manifest.json"
    with path.open("wb") as file, warnings.catch_warnings(action="ignore"):
        np.lib.format.write_array(file, rows, version=version)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"index_sha256": digest}))
    assert np.array_equal(ShardFolder(shards).index, rows)


@pytest.mark.parametrize("header", [b"{'descr':", b"(" * 9000, b"-" * 9000, b"\x00" * 100])
def test_a_header_that_is_none_is_one_line(header, shards):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (shards / "index.npy").write_bytes(content)
    with pytest.raises(UserError) as caught:
        _ = ShardFolder(shards).index
    one_line(caught, f"{shards / 'index.npy'}: unreadable", "make it anew: eyespot shards index")


@pytest.mark.parametrize("name", ["manifest.json", "index.npy"])
def test_a_pipe_in_a_files_place_is_not_waited_for(name, shards):
    (shards / name).unlink()
    os.mkfifo(shards / name)
    with pytest.raises(UserError, match="not a plain file") as caught:
        _ = ShardFolder(shards).index
    one_line(caught, f"{shards / name}: unreadable")


def test_a_manifest_nested_without_end_is_one_line(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="not a shard manifest") as caught:
        ShardFolder(tmp_path)
    one_line(caught)


def test_who_does_not_hash_still_sees_that_the_number_is_wrong(shards):
    np.save(shards / "index.npy", other_rows(shards))
    assert len(ShardFolder(shards, hashes=False).index) == 1438
    np.save(shards / "index.npy", np.load(shards / "index.npy")[:-1])
    with pytest.raises(UserError, match="where the manifest says 1438"):
        _ = ShardFolder(shards, hashes=False).index


def test_splits_hash_if_the_whole_does(digits, tmp_path):
    copy = shutil.copytree(digits, tmp_path / "digits")
    np.save(copy / "test" / "index.npy", other_rows(copy / "test"))
    assert len(ShardFolder.find(copy, hashes=False).split("test").index) == 359
    with pytest.raises(UserError, match="changed since"):
        _ = ShardFolder.find(copy).split("test").index


def test_a_folder_that_is_replaced_changes_nothing_for_who_has_opened_it(shards, digits):
    found = ShardFolder(shards)
    before, digest = found.index.copy(), found.manifest_sha256
    for name in ("index.npy", "manifest.json"):  # as eyespot shards index does: a new file takes the name
        write_bytes(shards / name, (digits / "test" / name).read_bytes())
    assert np.array_equal(found.index, before) and found.manifest_sha256 == digest
    assert found.manifest.num_samples == 1438 and ShardFolder(shards).manifest.num_samples == 359


def test_an_index_that_is_replaced_before_it_is_mapped_is_told_from_the_manifests(shards):
    found = ShardFolder(shards)
    write_bytes(shards / "index.npy", npy_bytes(other_rows(shards)))
    with pytest.raises(UserError, match=r"index\.npy: changed since it was written"):
        _ = found.index


@pytest.mark.parametrize(("do", "reason"), [("removed", "is missing"), ("cut", "has .* bytes where the manifest")])
def test_a_tar_of_another_size_is_found_once(shards, do, reason):
    found, path = ShardFolder(shards), shards / "shard-000002.tar"
    content = path.read_bytes()
    path.unlink() if do == "removed" else path.write_bytes(content[:-512])
    for _ in range(2):  # what was wrong is looked at again
        with pytest.raises(UserError, match=rf"shard-000002\.tar: {reason}.*; copy it again") as caught:
            found.check_tars()
        one_line(caught)
    path.write_bytes(content)
    found.check_tars()
    path.unlink()
    found.check_tars()  # what was right is not: reading finds it


LIES = {
    "a tar beyond the last": (lambda rows: rows["tar"].__setitem__(5, 12), "tar 12 of sample 5: .* 12 shards"),
    "an offset of 2^63": (
        lambda rows: rows["offset"].__setitem__(7, 2**63),
        "offset 9223372036854775808 of sample 7: ",
    ),
    "an offset of 2^64 - 1": (lambda rows: rows["offset"].__setitem__(7, 2**64 - 1), "offset .* beyond the end"),
    "bytes beyond the end": (
        lambda rows: rows["size"].__setitem__(9, 2**31),
        "offset .* of sample 9: .*beyond the end",
    ),
    "no bytes": (lambda rows: rows["size"].__setitem__(3, 0), "size 0 of sample 3: no image is so small"),
    "no rows of pixels": (lambda rows: rows["height"].__setitem__(3, 0), "height 0 of sample 3: "),
    "no columns": (lambda rows: rows["width"].__setitem__(slice(4, 9), 0), "width 0 of sample 4, as of 4 more: "),
    "a class too many": (lambda rows: rows["label"].__setitem__(2, 10), "label 10 of sample 2: .* lists 10 classes"),
    "a class below none": (lambda rows: rows["label"].__setitem__(2, -2), "label -2 of sample 2: "),
}


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_says_what_cannot_be_is_one_line(lie, hashes, shards):
    """Its sum agrees with the manifest's: whoever made the folder made both."""
    do, reason = LIES[lie]
    rows, manifest = np.load(shards / "index.npy"), shards / "manifest.json"
    do(rows)
    np.save(shards / "index.npy", rows)
    digest = hashlib.sha256((shards / "index.npy").read_bytes()).hexdigest()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"index_sha256": digest}))
    with pytest.raises(UserError, match=reason) as caught:
        _ = ShardFolder(shards, hashes=hashes).index
    one_line(caught, f"{shards / 'index.npy'}: ", "make it anew: eyespot shards index")


@pytest.mark.parametrize("count", [1439, 4_294_967_295])
def test_a_number_of_samples_that_is_not_there_takes_no_memory(count, shards):
    manifest = shards / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"num_samples": count}))
    with pytest.raises(UserError, match=f"where the manifest says {count} samples"):
        _ = ShardFolder(shards).index


@pytest.mark.parametrize("cut", [0, 100, 4096])
def test_an_index_that_is_cut_under_its_reader_stays_as_it_was(cut, shards):
    found = ShardFolder(shards)
    before = found.index.copy()
    os.truncate(shards / "index.npy", cut)
    assert np.array_equal(found.index, before)


def away(monkeypatch, part: str, number: int, times: int) -> None:
    """Opening and looking at files of that name fails so many times, as it does while a server restarts."""
    left, real_open, real_stat = [times], os.open, Path.stat

    def fail(path: object) -> None:
        if str(path).endswith(part) and left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", lambda path, *rest, **named: (fail(path), real_open(path, *rest, **named))[1])
    monkeypatch.setattr(Path, "stat", lambda path, **named: (fail(path), real_stat(path, **named))[1])


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN])
@pytest.mark.parametrize("part", ["manifest.json", "index.npy", "000003.tar"])
def test_a_server_that_is_away_for_a_moment_is_waited_for(part, number, shards, monkeypatch):
    away(monkeypatch, part, number, 2)
    found = ShardFolder.find(shards)
    found.check()
    assert found.manifest.num_samples == 1438


@pytest.mark.parametrize("part", ["manifest.json", "index.npy", "000003.tar"])
def test_a_server_that_stays_away_is_nobodys_wrong_input(part, shards, monkeypatch):
    away(monkeypatch, part, errno.ESTALE, 10**9)
    with pytest.raises(Outage, match=f"{part}: cannot be read for 0 s") as caught:
        ShardFolder.find(shards, patience_seconds=0.2).check()
    one_line(caught)


def test_what_may_not_be_looked_at_is_one_line(shards, monkeypatch):
    away(monkeypatch, "manifest.json", errno.EACCES, 10**9)
    with pytest.raises(UserError, match="cannot be looked at \\(Permission denied\\)"):
        ShardFolder.find(shards)
    with pytest.raises(UserError, match="unreadable \\(Permission denied\\)"):
        ShardFolder(shards)


def test_masks_beyond_the_tar_are_refused(shards):
    rows, manifest = np.zeros(1438, MASK_DTYPE), ShardFolder(shards).manifest
    rows["size"][3], rows["offset"][3] = 7, 2**40
    manifest.masks = Masks.of(rows, [1] * 256, ignored=255)
    (shards / "manifest.json").write_text(manifest.to_json())
    np.save(shards / "masks.npy", rows)
    with pytest.raises(UserError, match=r"masks\.npy: offset .* of sample 3: its bytes lie beyond the end"):
        _ = ShardFolder(shards).masks


def test_masks_are_read_and_checked_where_there_are_any(shards):
    with pytest.raises(UserError, match="have no segmentation masks; pack images with theirs") as caught:
        _ = ShardFolder(shards).masks
    one_line(caught)
    rows = np.zeros(1438, MASK_DTYPE)
    rows["size"][:3] = 7
    manifest = ShardFolder(shards).manifest
    manifest.masks = Masks.of(rows, [1] * 256, ignored=255)
    (shards / "manifest.json").write_text(manifest.to_json())
    np.save(shards / "masks.npy", rows)
    assert np.array_equal(ShardFolder(shards).masks, rows)
    rows["crc32"][5] = 1
    np.save(shards / "masks.npy", rows)
    with pytest.raises(UserError, match=r"masks\.npy: changed since it was written"):
        _ = ShardFolder(shards).masks
    assert np.array_equal(ShardFolder(shards, hashes=False).masks, rows)
