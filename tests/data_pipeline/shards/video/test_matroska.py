"""A file whose elements lead to its end is complete; one that was cut, or filled with zeros, is not."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import BadVideo, Ending, Wanted, frames
from eyespot.data_pipeline.shards.video.matroska import is_complete

WANTED = Wanted(fps=None, resize=None, max_pixels=2**20, max_frames=1000)


def slide_show(path: Path, last: int, count: int = 40, **options: str) -> Path:
    """Frames of which each is shown for 0.4 s, the last one for ``last`` ms."""
    codec = {".mkv": "mpeg4", ".webm": "libvpx"}[path.suffix]
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets: list[Any] = []
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
            frame: Any = av.VideoFrame.from_ndarray(noise, "rgb24")
            frame.pts, frame.time_base = 400 * number, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = round(last / 1000 / packets[-1].time_base)
        for packet in packets:
            container.mux(packet)
    return path


def place(path: Path) -> Place:
    return Place(str(path), 0, path.stat().st_size)


def decode(path: Path) -> int:
    return len(list(frames(place(path), WANTED, Ending(), lambda: None)))


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_last_frame_that_stays_for_long_is_no_cut(tmp_path: Path, suffix: str):
    path = slide_show(tmp_path / f"one{suffix}", 10_000)
    assert is_complete(place(path)) and decode(path) == 40


def test_what_is_missing_at_the_end_is_found(tmp_path: Path):
    whole = slide_show(tmp_path / "one.mkv", 400).read_bytes()
    cut, holed = tmp_path / "cut.mkv", tmp_path / "holed.mkv"
    for size in (0, 3, 20, 48, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        assert not is_complete(place(cut)), size
    for begin in (len(whole) // 3, len(whole) // 2):
        cut.write_bytes(whole[:begin])
        holed.write_bytes(whole[:begin] + bytes(len(whole) - begin))  # as some download while they are not done
        assert not is_complete(place(holed))
        for path in (cut, holed):
            with pytest.raises(BadVideo, match=r"cut|damaged"):
                decode(path)


def test_a_live_stream_says_nothing(tmp_path: Path):
    path = slide_show(tmp_path / "live.mkv", 400, live="1")
    assert not is_complete(place(path)) and decode(path) == 40
