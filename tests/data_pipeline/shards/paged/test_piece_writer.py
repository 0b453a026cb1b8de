"""The index is one file or pieces; both hold the same rows, and nothing of the other format is left."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.atomic_files import npy_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import (
    INDEX_DTYPE,
    MASK_DTYPE,
    MAX_SAMPLES,
    ImageStats,
    Manifest,
    Masks,
    Members,
    Shard,
)
from eyespot.data_pipeline.shards.paged import piece_writer
from eyespot.data_pipeline.shards.paged.piece_writer import CUT, Cut, PieceWriter, check_count, write_index
from eyespot.data_pipeline.shards.paged.shard_table import ShardTable
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

SHARDS = [Shard(tar=f"{number}.tar", num_samples=10, bytes=10**6, sha256="0" * 64) for number in range(3)]
SMALL = Cut(above=20, piece_rows=10, page_rows=4)


def rows_of(count: int) -> np.ndarray:
    rows = np.ones(count, INDEX_DTYPE)
    rows["crc32"], rows["label"] = np.arange(count), 0
    return rows


def manifest_of(count: int) -> Manifest:
    stats = ImageStats(mean=(0.5,) * 3, std=(0.2,) * 3, height=(1, 1, 1), width=(1, 1, 1))
    numbers = dict(num_samples=count, num_labeled=count)
    return Manifest(name="x", **numbers, classes=["a"], shards=SHARDS, image_stats=stats, index_sha256="")


def written(folder: Path, count: int, **changes) -> ShardFolder:
    folder.mkdir(exist_ok=True)
    manifest = write_index(folder, replace(manifest_of(count), **changes), rows_of(count), SMALL)
    (folder / "manifest.json").write_text(manifest.to_json())
    return ShardFolder(folder)


@pytest.mark.parametrize("count", [1, 20, 21, 30, 39, 40, 41])
def test_both_formats_hold_the_same_rows(count, tmp_path):
    found = written(tmp_path, count)
    assert (found.manifest.format, found.manifest.pieces is None) == (
        ("eyespot-shards/1", True) if count <= 20 else ("eyespot-shards/2", False)
    )
    assert np.array_equal(found.index, rows_of(count)) and list(found.manifest.shards) == SHARDS
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"manifest.json", *({"index.npy"} if count <= 20 else {"index", "shards.npy"})}
    if found.manifest.pieces is None:
        assert found.manifest.index_sha256 == hashlib.sha256(npy_bytes(rows_of(count))).hexdigest()
        return
    pieces = [np.load(path) for path in sorted((tmp_path / "index").glob("0*.npy"))]
    assert np.array_equal(np.concatenate(pieces), rows_of(count))
    assert [len(piece) for piece in pieces] == found.manifest.pieces.samples
    pages = [part[begin : begin + 4] for part in pieces for begin in range(0, len(part), 4)]
    digests = [hashlib.sha256(page.tobytes()).digest() for page in pages]
    assert [row.tobytes() for row in np.load(tmp_path / "index" / "pages.npy")] == digests
    assert found.manifest.pieces.num_pages == len(digests)


def test_a_manifest_goes_from_one_format_to_the_other_and_back(tmp_path):
    first = written(tmp_path / "one", 30)
    assert len(first.manifest.shards) == 3
    again = write_index(tmp_path / "one", first.manifest, rows_of(30), CUT)
    assert again.pieces is None and again.shards == SHARDS
    assert Manifest.from_json(again.to_json().encode(), tmp_path) == again
    pieces = write_index(tmp_path / "one", again, rows_of(30), SMALL)
    assert list(pieces.shards) == SHARDS and pieces.to_json() == first.manifest.to_json()


def test_rows_come_in_any_portions(tmp_path):
    rows, fields = rows_of(47), []
    for number, cuts in enumerate([[], [1, 2, 3], [10, 20], [9, 31, 32, 33]]):
        (tmp_path / str(number)).mkdir()
        writer = PieceWriter(tmp_path / str(number), SMALL)
        for part in np.split(rows, cuts):
            writer.add(part)
        assert writer.num_samples == 47
        fields.append(writer.finish(ShardTable.of(SHARDS)))
    assert all(each == fields[0] for each in fields)
    texts = [(tmp_path / str(number) / "index" / "000003.npy").read_bytes() for number in range(4)]
    assert len(set(texts)) == 1


def test_no_more_than_a_piece_is_held(tmp_path, monkeypatch):
    writer, most = PieceWriter(tmp_path, SMALL), []
    for begin in range(0, 95, 5):
        writer.add(rows_of(100)[begin : begin + 5])
        most.append(sum(part.base is None and len(part) for part in writer._waiting))
    assert max(most) < SMALL.piece_rows


def test_nothing_of_an_index_before_is_left(tmp_path):
    for count, names in [(45, 5), (25, 3), (12, 0), (31, 4), (5, 0)]:
        found = written(tmp_path, count)
        assert np.array_equal(found.index, rows_of(count))
        assert len([*(tmp_path / "index").glob("0*.npy")]) == names
        assert (tmp_path / "index.npy").exists() == (not names) == (not (tmp_path / "index").exists())


def test_what_is_not_ours_stays(tmp_path):
    written(tmp_path, 30)
    (tmp_path / "index" / "notes.txt").write_text("mine")
    written(tmp_path, 5)
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kind", ["masks", "members"])
def test_an_index_with_tables_beside_it_is_one_file(kind, tmp_path):
    masks = Masks.of(np.zeros(30, MASK_DTYPE), [0] * 256, 255)
    beside = {"masks": masks} if kind == "masks" else {"members": {"txt": Members(count=1, sha256="")}}
    found = written(tmp_path, 30, **beside).manifest
    assert found.pieces is None
    (note,) = found.notes
    assert note.startswith("30 samples with files beside") and "1.3e-06 GB" in note  # 30 x (28 + 16) bytes
    assert written(tmp_path, 5, **beside).manifest.notes == []


def test_more_samples_than_ids_count_are_one_line(tmp_path, monkeypatch):
    check_count(tmp_path, MAX_SAMPLES)
    with pytest.raises(UserError, match=r"4,294,967,296 samples are more than ids of 32 bits count") as caught:
        check_count(tmp_path, MAX_SAMPLES + 1)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(piece_writer, "MAX_SAMPLES", 25)
    writer = PieceWriter(tmp_path, SMALL)
    writer.add(rows_of(25))
    with pytest.raises(UserError, match="26 samples are more than ids"):
        writer.add(rows_of(1))
    with pytest.raises(UserError, match="26 samples are more than ids"):
        write_index(tmp_path, manifest_of(26), rows_of(26))


def test_data_sets_of_today_stay_one_file():
    assert CUT.above >= 4_000_000 and CUT.piece_rows % CUT.page_rows == 0
