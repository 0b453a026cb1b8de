"""What is kept of a finished shard comes back as it was."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.clips.frame_check import examine_clip
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS
from eyespot.data_pipeline.shards.members.footage import Footage
from eyespot.data_pipeline.shards.members.items import Item
from eyespot.data_pipeline.shards.packed_shard import PackedShard
from eyespot.data_pipeline.shards.shard_writer import ShardWriter


def finished(folder: Path, number: int, count: int) -> PackedShard:
    """A shard of two films of so many frames."""
    stream = io.BytesIO()
    Image.new("CMYK", (9, 7), number).save(stream, "JPEG")
    item = Item("film", 0, "", 0, 0, frames=Footage(rate=2.0, frames={"": [stream.getvalue()] * count}))
    assert item.frames is not None
    part, writer = PackedShard(next=2), ShardWriter(folder, number, 2 * number)
    for _ in range(2):
        image = examine_clip(item.frames, max_pixels=MAX_PIXELS)
        writer.add(image, item)
        part.count(image)
    part.shard, part.rows, part.masks, part.frames, part.members = writer.close()
    return part


def test_a_part_comes_back(tmp_path: Path):
    part = finished(tmp_path, 0, 3)
    part.save(tmp_path / "all-000000")
    back = PackedShard.load(tmp_path / "all-000000")
    assert back.converted == {"cmyk": 6} and (back.next, back.sums, back.shard) == (part.next, part.sums, part.shard)
    assert np.array_equal(back.rows, part.rows) and back.frames is not None and part.frames is not None
    assert back.frames.files() == part.frames.files() and back.frames.streams == ("",)
    (tmp_path / "all-000000.npz").write_bytes(b"PK cut")
    with pytest.raises((UserError, OSError, ValueError)):
        PackedShard.load(tmp_path / "all-000000")


def test_tables_of_parts_follow_each_other(tmp_path: Path):
    parts = [finished(tmp_path, 0, 3), PackedShard(next=4), finished(tmp_path, 1, 5)]
    rows, masks, frames, _ = PackedShard.tables(parts)
    assert len(rows) == 4 and not len(masks) and frames is not None
    assert frames.clips["first"].ravel().tolist() == [0, 3, 6, 11]
    assert np.array_equal(frames.rows[frames.clips["first"][:, 0]], rows) and rows["tar"].tolist() == [0, 0, 1, 1]
