"""Examines the frames of one sample: each as an image is, and whether they belong together."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from eyespot.data_pipeline.augment.views import MOST_FRAMES
from eyespot.data_pipeline.shards.frames import motion_of
from eyespot.data_pipeline.shards.image_check import MISREAD, BadImage, Examined, ExaminedClip, examine
from eyespot.data_pipeline.shards.members.footage import Footage, FrameSource
from eyespot.data_pipeline.shards.pack_masks import examine_mask

BATCH_SIZE = 32
"""Frames whose headers are looked at together."""


def examine_clip(source: FrameSource, *, in_place: bool = False, **options: Any) -> Examined:
    """Decodes all frames, and measures how much moves between them.

    Args:
        source: the frames.
        in_place: as in ``image_check.examine``; the frames come without their bytes. So do always those that stay as
            they are and lie in files by themselves, at ``source.places``: a film may be larger than the memory.
        options: further ones of ``image_check.examine``.

    Returns:
        The first frame of the first stream, with the sums of all frames, and ``clip``.

    Raises:
        BadImage: a frame is no whole image, they differ in size, its streams in length, or there are none.
        OSError: they cannot be read.
    """
    footage = source.read()
    streams = footage.streams
    kept = bool(source.places)
    found = {stream: list(_examine_stream(footage, stream, in_place, kept, options)) for stream in streams}
    counts = {stream: len(frames) for stream, frames in found.items()}
    if not all(counts.values()):
        raise BadImage("no frames")
    if len(set(counts.values())) > 1:
        raise BadImage(f"its cameras differ in length: {', '.join(f'{n} frames {name}' for name, n in counts.items())}")
    frames = [frame for stream in streams for frame, _ in found[stream]]
    _check_sizes(frames, streams)
    if footage.masks and not any(frame.mask for frame in frames):
        raise BadImage("no mask of any frame (a .png of the same name)")
    motion = [motion for stream in streams for _, motion in found[stream]]
    clip = ExaminedClip(streams=streams, frames=frames, motion=motion, rate=footage.rate, sound=footage.sound)
    sums, squares = (np.sum([getattr(frame, name) for frame in frames], 0).tolist() for name in ("sums", "squares"))
    return replace(frames[0], sums=tuple(sums), squares=tuple(squares), clip=clip)


def _examine_stream(
    footage: Footage, stream: str, in_place: bool, kept: bool, options: dict[str, Any]
) -> Iterator[tuple[Examined, float]]:
    """Each frame, with its motion to the next; no more decoded ones than a batch are held, and no bytes of files."""
    masks = iter(footage.masks.get(stream, ()))
    before: Examined | None = None
    for image in _examine_images(footage.frames[stream], stream, in_place, options):
        mask = next(masks, None)
        if mask is not None:
            keep = {name: options[name] for name in ("resize",) if name in options}
            size, turned = (image.height, image.width), image.orientation
            image.mask = examine_mask(mask, size, in_place=in_place, orientation=turned, **keep)
        if in_place:
            image = replace(image, data=b"", mask=image.mask and replace(image.mask, data=b""))
        elif kept and image.kind is None:
            image = replace(image, data=b"")
        if before is not None:
            motion = _motion(before, image)
            yield _without_luma(before), motion
        before = image
    if before is not None:
        yield _without_luma(before), 0.0


def _examine_images(
    frames: Iterable[bytes], stream: str, in_place: bool, options: dict[str, Any]
) -> Iterator[Examined]:
    from eyespot.data_pipeline.shards.header_check import header_sizes  # here and not above: it imports DALI

    waiting, number = iter(frames), 0
    while files := list(islice(waiting, BATCH_SIZE)):
        if number + len(files) > MOST_FRAMES:
            raise BadImage(f"more than {MOST_FRAMES:,} frames; cut it into shorter ones")
        names = [_name(stream, number + place) for place in range(len(files))]
        images = [_examine(data, name, in_place, options) for data, name in zip(files, names, strict=True)]
        sizes = header_sizes([image.data for image in images])
        for data, name, image, size in zip(files, names, images, sizes, strict=True):
            if size != (image.height, image.width):  # DALI does not read it as PIL does
                image = None if in_place else _examine(data, name, in_place, options, rewrite="unusual header")
                if image is None or header_sizes([image.data]) != [(image.height, image.width)]:
                    raise BadImage(f"{name}: {MISREAD}")
            yield image
        number += len(files)


def _examine(data: bytes, name: str, in_place: bool, options: dict[str, Any], **more: Any) -> Examined:
    try:
        return examine(data, in_place=in_place, luma=True, **options, **more)
    except BadImage as error:
        raise BadImage(f"{name}: {error}") from error


def _check_sizes(frames: list[Examined], streams: tuple[str, ...]) -> None:
    first, count = frames[0], len(frames) // len(streams)
    for place, frame in enumerate(frames):
        if (frame.height, frame.width) != (first.height, first.width):
            raise BadImage(
                f"{_name(streams[place // count], place % count)} is {frame.width} x {frame.height} pixels where"
                f" {_name(streams[0], 0)} is {first.width} x {first.height}: those of a sample must be of one size"
            )


def _name(stream: str, number: int) -> str:
    return f"frame {stream}/{number}" if stream else f"frame {number}"


def _motion(image: Examined, following: Examined) -> float:
    """0 where they differ in size, which is refused later."""
    if image.luma is None or following.luma is None or image.luma.shape != following.luma.shape:
        return 0.0
    return motion_of(image.luma, following.luma)


def _without_luma(image: Examined) -> Examined:
    image.luma = None
    return image
