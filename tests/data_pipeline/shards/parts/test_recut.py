"""Shards made of the samples of others: the same bytes, other ids."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from packed_parts import write_images

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.packed_shard import PackedShard
from eyespot.data_pipeline.shards.parts.recut import Piece, spans, tables, write_shard
from eyespot.data_pipeline.shards.parts.task_part import sample_begins
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(str(write_images(folder / "images", 23)), folder / "shards", workers=1, max_samples=7)
    return folder / "shards"


def pieces(packed: Path) -> list[Piece]:
    shards, found, first = ShardFolder(packed), list[Piece](), 0
    for number in range(len(shards.manifest.shards)):
        rows = shards.index[shards.index["tar"] == number]
        tar = shards.tar_path(number)
        begins = sample_begins(tar.with_suffix(".idx"))
        found.append(
            Piece(tar=tar, home=packed, packed=PackedShard(rows=rows), begins=begins, first=first, written_first=first)
        )
        first += len(rows)
    return found


def test_the_same_samples_make_the_same_tar(packed: Path, tmp_path: Path):
    for number, piece in enumerate(pieces(packed)):
        path = tmp_path / piece.tar.name
        line = write_shard(path, spans(pieces(packed), piece.first, piece.first + piece.count), piece.first)
        assert line == ShardFolder(packed).manifest.shards[number]
        assert path.read_bytes() == piece.tar.read_bytes()
        assert path.with_suffix(".idx").read_bytes() == piece.tar.with_suffix(".idx").read_bytes()


@pytest.mark.parametrize("first_id", [3, 99_999_995])
def test_samples_of_several_tars_under_other_ids(packed: Path, tmp_path: Path, first_id: int):
    found = spans(pieces(packed), 5, 18)
    assert [(span.start, span.stop) for span in found] == [(5, 7), (0, 7), (0, 4)]
    line = write_shard(tmp_path / "shard-000004.tar", found, first_id)
    rows = tables(found, 4).rows
    assert line.num_samples == len(rows) == 13 and set(rows["tar"]) == {4}
    old, data = ShardFolder(packed), (tmp_path / "shard-000004.tar").read_bytes()
    assert len(data) == line.bytes and len(data) % 10_240 == 0
    with tarfile.open(tmp_path / "shard-000004.tar") as archive:  # which compares the checksum of every header
        keys = [member.name.partition(".")[0] for member in archive]
        sources = [json.load(archive.extractfile(m))["source"] for m in archive if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert sorted(set(keys)) == sorted(f"{first_id + number:08d}" for number in range(13))
    assert len(set(sources)) == 13
    for row, before in zip(rows, old.index[5:18], strict=True):
        place = int(before["offset"])
        image = old.tar_path(int(before["tar"])).read_bytes()[place : place + int(before["size"])]
        assert data[row["offset"] : row["offset"] + row["size"]] == image
        assert row["crc32"] == before["crc32"] and row["label"] == before["label"]
    assert np.array_equal(np.diff(sample_begins(tmp_path / "shard-000004.idx")), np.concatenate(
        [np.diff(span.piece.begins[span.start : span.stop + 1]) for span in found]
    ))  # fmt: skip


def test_a_tar_that_is_not_what_its_idx_says_is_refused(packed: Path, tmp_path: Path):
    (piece, *_) = pieces(packed)
    other = tmp_path / "shard-000000.tar"
    data = bytearray(piece.tar.read_bytes())
    data[3] = ord("x")
    other.write_bytes(data)
    other.with_suffix(".idx").write_bytes(piece.tar.with_suffix(".idx").read_bytes())
    piece.tar = other
    with pytest.raises(UserError, match=r"is not what its \.idx says"):
        write_shard(tmp_path / "shard-000009.tar", spans([piece], 0, 5), 7)
    other.write_bytes(data[:2000])
    with pytest.raises(UserError, match="is cut short"):
        write_shard(tmp_path / "shard-000009.tar", spans([piece], 0, 5), 0)
    assert not list(tmp_path.glob("shard-000009*"))
