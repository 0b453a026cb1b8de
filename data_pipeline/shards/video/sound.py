"""The sound of a video, cut where its samples are cut, as FLAC."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import BadVideo, opened
from eyespot.data_pipeline.shards.video.timing import Part

_GAP = 0.05
"""Seconds: sound that comes so much too late or too early is moved to its time; less is how containers round."""
_BLOCK = 1 << 16
"""Samples of silence that are made at once."""

Write = Callable[[np.ndarray], None]


def write_flac(
    place: Place, start: float, parts: Sequence[Part], file: io.BufferedIOBase, alive: Callable[[], None]
) -> list[tuple[int, int]]:
    """Appends FLAC of 16 bits of each part, as long as its frames are shown; silence where there is no sound.

    Only some blocks of it are ever in memory: a film's whole sound is gigabytes.

    Args:
        place: where the video's bytes lie.
        start: when its first frame is shown, seconds on the container's clock.
        parts: one behind the other.
        file: to whose end it is written; open for reading too.
        alive: called for each piece that is decoded or written.

    Returns:
        Offset and size of each; [] where the video has no sound.

    Raises:
        BadVideo: its sound cannot be decoded.
    """
    found: list[tuple[int, int]] = []
    with opened(place) as container:
        if not container.streams.audio:
            return found
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise BadVideo("its sound is of a codec that FFmpeg does not know here")
        stream.codec_context.thread_count = 1
        rate, channels = stream.codec_context.sample_rate, 1 if stream.codec_context.channels == 1 else 2
        pieces = _pieces(container, stream, start, "mono" if channels == 1 else "stereo", rate, parts[-1].end)
        blocks, held, done = _joined(pieces, rate, channels), np.empty((0, channels), np.int16), 0
        for part in parts:
            begin = file.seek(0, os.SEEK_END)
            end = round(part.end * rate)
            with flac(file, rate, channels) as write:
                while done < end:
                    alive()
                    if not len(held):
                        block = next(blocks, None)
                        held = _silence(end - done, channels) if block is None else block
                    taken, held = held[: end - done], held[end - done :]
                    write(taken)
                    done += len(taken)
            found.append((begin, file.seek(0, os.SEEK_END) - begin))
    return found


@contextmanager
def flac(file: io.BufferedIOBase, rate: int, channels: int) -> Iterator[Write]:
    """A FLAC file behind the end of another one: gives a function that takes (count, channels) int16, block by block.

    Args:
        file: open for writing and reading.
        rate: samples a second.
        channels: 1 or 2.
    """
    import av

    layout, position = "mono" if channels == 1 else "stereo", 0
    with av.open(_Tail(file), "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("flac", rate=rate, layout=layout, format="s16")
        stream.codec_context.options = {"flags": "+bitexact"}

        def write(samples: np.ndarray) -> None:
            nonlocal position
            frame: Any = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), "s16", layout)
            frame.sample_rate, frame.pts = rate, position
            position += len(samples)
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode(None))


class _Tail(io.RawIOBase):
    """What is written behind the present end of a file, as a file by itself: the header of FLAC is written last."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file, self._begin = file, file.seek(0, os.SEEK_END)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset + (self._begin if whence == os.SEEK_SET else 0), whence) - self._begin

    def tell(self) -> int:
        return self._file.tell() - self._begin

    def write(self, data: Any) -> int:
        return self._file.write(data)


def _joined(pieces: Iterator[tuple[int, np.ndarray]], rate: int, channels: int) -> Iterator[np.ndarray]:
    """Sound without a gap from the first frame on, of pieces that say where they begin."""
    filled = 0
    for position, samples in pieces:
        late = position - filled
        if late > _GAP * rate:
            while filled < position:
                silence = _silence(position - filled, channels)
                filled += len(silence)
                yield silence
        elif late < -_GAP * rate:
            samples = samples[-late:]
        if len(samples):
            filled += len(samples)
            yield samples


def _silence(count: int, channels: int) -> np.ndarray:
    return np.zeros((min(count, _BLOCK), channels), np.int16)


def _pieces(
    container: Any, stream: Any, start: float, layout: str, rate: int, end: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded sound and at which sample behind the first frame it begins; what comes before that frame is cut off."""
    import av

    resampler = av.AudioResampler(format="s16", layout=layout, rate=rate)
    position = None
    for frame in container.decode(stream):
        if frame.time is not None:
            position = round((frame.time - start) * rate)
        position = position or 0
        if position > end * rate:
            return
        for piece in resampler.resample(frame):
            samples = piece.to_ndarray().reshape(-1, len(piece.layout.channels))
            if (kept := samples[max(0, -position) :]).size:
                yield max(0, position), kept
            position += len(samples)
