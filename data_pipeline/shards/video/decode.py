"""Decodes one video into JPEG frames, once from end to end: only so is it known how many there are.

What is decoded is what a player shows: turned by the display matrix, pixels made square, transparency laid on white.
Timestamps, not frame numbers, say when. Nothing is believed of the header but as a second opinion: a file whose frames
end before its header says is cut. BadVideo names what is wrong. Runs in a process of its own (outside/apart.py): a
hostile file may crash the decoder, or make it loop.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eyespot.data_pipeline.shards.image_check import MAX_SIDE, encode_jpeg
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.containers import HEAD, Window, demuxer
from eyespot.data_pipeline.shards.video.gif_blocks import is_cut
from eyespot.data_pipeline.shards.video.matroska import is_complete
from eyespot.data_pipeline.shards.video.timing import MOST_REPEATS, resampled
from eyespot.data_pipeline.terminal import plural

LARGEST_FRAME = 2**26
"""Pixels: twice 8K. A decoder keeps up to twenty frames."""
LONGEST = 48 * 3600
"""Seconds."""
_CUT_SECONDS, _CUT_SHARE = 0.5, 0.02
"""A video may end so much earlier than its header says."""


class BadVideo(Exception):
    """The bytes are no whole video. The message is the reason, one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is to become of a video."""

    fps: float | None
    """Frames per second; None = every frame is kept."""
    resize: int | None
    """Pixels of the short side; smaller frames stay as they are."""
    max_pixels: int
    """Of one frame."""
    max_frames: int
    """Of one video, after resampling."""


class Frame(NamedTuple):
    """One frame as it is to be stored."""

    time: float
    """Seconds from the first frame of the video."""
    jpeg: bytes
    repeats: int
    """At how many ticks in a row it is to be seen; 1 where every frame is kept."""


@dataclass(kw_only=True, slots=True)
class Ending:
    """What is known of a video once its last frame is decoded."""

    seconds: float = 0.0
    """From the begin of the first frame to the end of the last one."""
    start: float = 0.0
    """When the first frame is shown, seconds on the container's clock, which sound goes by too."""


def frames(place: Place, wanted: Wanted, ending: Ending, alive: Callable[[], None]) -> Iterator[Frame]:
    """Decodes all frames of a video.

    Args:
        place: where its bytes lie.
        wanted: what to make of them.
        ending: filled in when the last frame has been given.
        alive: called for each frame that is decoded.

    Raises:
        BadVideo: it is no video, a cut or damaged one, or one of absurd size.
    """
    with opened(place, wanted.max_pixels) as container:
        stream = next((one for one in container.streams.video if not _is_cover(one)), None)
        if stream is None:
            raise BadVideo("no video stream" + (" (sound only)" if container.streams.audio else ""))
        if stream.codec_context is None:
            raise BadVideo("its video is of a codec that FFmpeg does not know here")
        _check_size(stream.codec_context.width, stream.codec_context.height, wanted.max_pixels)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(wanted.max_pixels)}
        counted = _Counted(_timed(container, stream, wanted.max_pixels, alive), ending)
        total = 0
        if wanted.fps is None:
            kept = ((begin, frame, 1) for begin, _, frame in counted)
        else:
            slack = min(max(stream.time_base, Fraction(1, 1000)), Fraction(1, 4) / Fraction(wanted.fps))
            kept = resampled(counted, Fraction(wanted.fps), slack)
        for begin, frame, repeats in kept:
            total += repeats
            if total > wanted.max_frames:
                raise BadVideo(
                    f"more than {wanted.max_frames:,} frames; take fewer of a second (--fps), or more (--max-frames)"
                )
            if total > MOST_REPEATS * counted.number:
                raise BadVideo(f"its timestamps make {counted.number} frames last {float(begin):,.0f} s and more")
            if repeats:
                yield Frame(
                    float(begin), encode_jpeg(_upright(frame, stream, wanted.max_pixels), wanted.resize), repeats
                )
        _check_whole(place, container, stream, counted.number, ending)


@contextmanager
def opened(place: Place, max_pixels: int = LARGEST_FRAME) -> Iterator[Any]:
    """The container that lies there.

    Raises:
        BadVideo: it is none, or FFmpeg refuses it, now or while it is read.
        OSError: it cannot be read, whatever else seemed wrong with it then.
    """
    import av
    import av.logging
    from av.error import FFmpegError

    av.logging.set_level(av.logging.ERROR)  # what an error carries, and is printed nowhere
    logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
    with Window(place) as file:
        head = file.read(HEAD) or b""
        if not head:
            raise BadVideo("empty file")
        if (name := demuxer(head)) is None:
            raise BadVideo("no video of a known container: its bytes are not mp4, mov, mkv, webm, avi or gif")
        file.seek(0)
        try:
            options = {"max_pixels": str(max_pixels)}
            with av.open(file, format=name, options=options, metadata_errors="replace") as container:
                yield container
        except (FFmpegError, BadVideo) as error:
            if file.outage is not None:
                raise file.outage from error
            if isinstance(error, BadVideo):
                raise
            log: Any = error.log  # level, part, text
            said = " ".join(str(log[2] if log else error.strerror or type(error).__name__).split())
            raise BadVideo(f"cut or damaged: {said}") from error
        if file.outage is not None:
            raise file.outage


class _Counted:
    """Frames as they pass: when each begins, counted from the first one, how many, and when the last one ended."""

    def __init__(self, timed: Iterator[tuple[Fraction, Fraction, Any]], ending: Ending) -> None:
        self._timed, self._ending = timed, ending
        self.number = 0

    def __iter__(self) -> Iterator[tuple[Fraction, Fraction, Any]]:
        start = Fraction(0)
        for begin, end, frame in self._timed:
            if not self.number:
                start = begin
                self._ending.start = float(start)
            self.number += 1
            self._ending.seconds = float(end - start)
            if end - start > LONGEST:
                raise BadVideo(f"longer than {LONGEST // 3600} hours, its timestamps say")
            yield begin - start, end - start, frame


def _timed(
    container: Any, stream: Any, max_pixels: int, alive: Callable[[], None]
) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """All frames, each with when it begins and ends on the container's clock, ascending."""
    period = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
    begin = end = None
    size: tuple[int, int] | None = None
    for frame in container.decode(stream):
        alive()
        _check_size(frame.width, frame.height, max_pixels)
        if size is not None and size != (frame.width, frame.height):
            raise BadVideo(f"its frames change size: {size[0]} x {size[1]}, then {frame.width} x {frame.height}")
        if frame.is_corrupt:
            raise BadVideo(f"damaged: the decoder says so of the frame after {float(begin or 0):.2f} s")
        size = frame.width, frame.height
        base = frame.time_base or stream.time_base
        said = None if frame.pts is None else frame.pts * base
        begin = max(
            said if said is not None else end or Fraction(0), begin if begin is not None else said or Fraction(0)
        )
        end = begin + (frame.duration * base if frame.duration else period)
        yield begin, end, frame
    if begin is None:
        raise BadVideo("not one frame in it")


def _is_cover(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.still_image))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise BadVideo(f"{width} x {height} pixels, more than the limit against decompression bombs (--max-pixels)")


def _check_whole(place: Place, container: Any, stream: Any, decoded: int, ending: Ending) -> None:
    """Whether as much was decoded as the header says, where it says anything."""
    if container.format.name == "gif" and is_cut(place):
        raise BadVideo(f"cut: its bytes end within a frame, after {decoded}")
    duration = _clock(stream.metadata.get("DURATION", ""))  # Matroska's tag
    if stream.duration is not None:
        duration = float(stream.duration * stream.time_base)
        lost = duration - ending.seconds
    else:  # on the container's clock, on which the first frame may be late
        if not duration and container.duration is not None and not container.streams.audio:  # sound may be longer
            duration = container.duration / 1e6
        lost = duration - ending.start - ending.seconds
    is_short = lost > _CUT_SECONDS + _CUT_SHARE * duration
    # For how long the last frame is shown, only the header of a Matroska file may say.
    if is_short and not (container.format.name.startswith("matroska") and is_complete(place)):
        raise BadVideo(f"cut: its frames last {ending.seconds:.2f} s where its header says {duration:.2f} s")
    counted = stream.frames
    if decoded < counted and container.format.name.startswith("mov"):  # whose edit list may hide some of them
        counted = min(counted, sum(not entry.is_discard for entry in stream.index_entries))
    if decoded < counted * (1 - _CUT_SHARE) - 2:
        raise BadVideo(f"cut: {plural(decoded, 'frame')} where its header says {counted}")


def _clock(text: str) -> float:
    """Seconds of 00:01:02.5; 0 where it says nothing."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return 0.0
    return hours * 3600 + minutes * 60 + seconds


def _upright(frame: Any, stream: Any, max_pixels: int) -> Image.Image:
    """As a player shows it: RGB, square pixels, turned by the display matrix."""
    if any(component.is_alpha for component in frame.format.components):
        rgba = Image.fromarray(frame.to_ndarray(format="rgba"))
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    ratio = stream.sample_aspect_ratio or 1
    if ratio != 1 and Fraction(1, 4) <= ratio <= 4:
        width = max(1, round(image.width * ratio))
        _check_size(width, image.height, max_pixels)
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return image if matrix is None else turned(image, np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())


def turned(image: Image.Image, matrix: list[int]) -> Image.Image:
    """Turned and mirrored by a display matrix, to the nearest quarter.

    Args:
        image: as it was decoded.
        matrix: a, b, c, d: what lies at (x, y), y downwards, is shown at (a x + c y, b x + d y).
    """
    a, b, c, d = matrix
    if abs(b) > abs(a):
        image, right, down = image.transpose(Image.Transpose.TRANSPOSE), c, b
    else:
        right, down = a, d
    if right < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down < 0 else image
