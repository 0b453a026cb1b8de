"""The sound of a video, cut where its samples are cut, as FLAC."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import BadVideo, opened
from eyespot.data_pipeline.shards.video.timing import Part

_GAP = 0.05
"""Seconds: sound that comes so much too late or too early is moved to its time; less is how containers round."""


def flac_parts(place: Place, start: float, parts: Sequence[Part], alive: Callable[[], None]) -> Iterator[bytes]:
    """FLAC of 16 bits of each part, as long as its frames are shown; silence where there is no sound.

    Args:
        place: where the video's bytes lie.
        start: when its first frame is shown, seconds on the container's clock.
        parts: one behind the other.
        alive: called for each piece that is decoded.

    Yields:
        As many as parts; nothing at all where the video has no sound.

    Raises:
        BadVideo: its sound cannot be decoded.
    """
    with opened(place) as container:
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise BadVideo("its sound is of a codec that FFmpeg does not know here")
        stream.codec_context.thread_count = 1
        rate, layout = stream.codec_context.sample_rate, "mono" if stream.codec_context.channels == 1 else "stereo"
        waiting: list[np.ndarray] = []
        done = filled = 0  # samples behind the first frame: given out, decoded
        todo = list(parts)
        for position, samples in _pieces(container, stream, start, layout, rate, parts[-1].end):
            alive()
            late = position - filled
            if late > _GAP * rate:
                waiting.append(np.zeros((late, samples.shape[1]), np.int16))
                filled += late
            elif late < -_GAP * rate:
                samples = samples[-late:]
            waiting.append(samples)
            filled += len(samples)
            while todo and filled >= round(todo[0].end * rate):
                end = round(todo.pop(0).end * rate)
                held = np.concatenate(waiting)
                yield encode_flac(held[: end - done], rate)
                waiting, done = [held[end - done :]], end
        for part in todo:
            end = round(part.end * rate)
            held = np.concatenate([*waiting, np.zeros((max(0, end - filled), 1 if layout == "mono" else 2), np.int16)])
            yield encode_flac(held[: end - done], rate)
            waiting, done, filled = [held[end - done :]], end, max(filled, end)


def encode_flac(samples: np.ndarray, rate: int) -> bytes:
    """FLAC of (count, channels) int16, 1 or 2 channels, ``rate`` samples a second."""
    import av

    file = io.BytesIO()
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("flac", rate=rate, layout=layout, format="s16")
        stream.codec_context.options = {"flags": "+bitexact"}
        frame: Any = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), "s16", layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


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
