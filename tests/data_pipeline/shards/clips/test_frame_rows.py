"""Rows of samples follow each other in the tables of frames."""

import pytest

from eyespot.data_pipeline.shards.clips.frame_rows import FrameRows
from eyespot.data_pipeline.shards.image_check import Examined, ExaminedClip


def clip(count: int, rate: float, streams: tuple[str, ...] = ("left", "right")) -> ExaminedClip:
    frame = Examined(
        data=b"", extension="jpg", kind=None, height=2, width=3, crc32=0, sums=(0, 0, 0), squares=(0, 0, 0)
    )
    frames = [frame] * (count * len(streams))
    return ExaminedClip(streams=streams, frames=frames, motion=[0.5] * len(frames), rate=rate)


def test_samples_follow_each_other():
    rows = FrameRows()
    assert rows.tables() is None
    for tar, (count, rate) in enumerate(((3, 8.0), (1, 0.0))):
        places = [(tar, 512 * n, 9, 1, 2, 3, -1) for n in range(2 * count)]
        rows.add(clip(count, rate), places, [(0, 0, 0)] * (2 * count))
    tables = rows.tables()
    assert tables is not None and tables.streams == ("left", "right") and not tables.has_masks
    assert tables.clips["first"].tolist() == [[0, 3], [6, 7]] and tables.clips["count"].tolist() == [[3, 3], [1, 1]]
    assert (
        tables.clips["rate"].tolist() == [[8.0, 8.0], [0.0, 0.0]] and tables.rows["tar"].tolist() == [0] * 6 + [1] * 2
    )
    with pytest.raises(AssertionError, match="one table"):
        rows.add(clip(1, 0.0, ("",)), [(0, 0, 9, 1, 2, 3, -1)], [(0, 0, 0)])
