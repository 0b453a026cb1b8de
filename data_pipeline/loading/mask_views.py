"""Segmentation masks as the views show them."""

import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from eyespot.data_pipeline.augment.crop_geometry import center_crops
from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

READ_AT_ONCE = 256


def mask_views(
    shards: ShardFolder, ids: Int64[np.ndarray, " n"], view: CenterView
) -> Iterator[UInt8[np.ndarray, "b size size"]]:
    """The masks of some samples, seen through the view that their images are seen through; in order, a few at a time.

    Each pixel of the view takes the class of the mask's pixel under its centre, which is what resizing by nearest
    neighbour and cutting gives. Done by indexing, in integers: DALI could only do it less exactly, and masks are read
    once for an evaluation, not all through a training.

    Args:
        shards: where the masks are.
        ids: which samples.
        view: of the images.

    Raises:
        UserError: the shards have no masks, or one of these is damaged or missing.
    """
    rows, index = shards.masks, shards.index.copy()
    for name in ("offset", "size", "crc32"):
        index[name] = rows[name]
    ignored = shards.manifest.masks.ignored if shards.manifest.masks is not None else 0
    reader = Reader(shards, substitute=False, index=index)
    try:
        for some in np.split(ids, range(READ_AT_ONCE, len(ids), READ_AT_ONCE)):
            _, files = reader.start(some).result()
            yield np.stack([_seen(_decoded(file), view, ignored) for file in files])
    finally:
        reader.close()


def _decoded(file: bytearray) -> UInt8[np.ndarray, "h w"]:
    return np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))


def _seen(mask: UInt8[np.ndarray, "h w"], view: CenterView, ignored: int) -> UInt8[np.ndarray, "size size"]:
    place = center_crops(view, np.array([mask.shape], np.int32))
    rows, columns = (
        start + (2 * (offset + np.arange(view.size)) + 1) * side // (2 * resized)
        for start, side, resized, offset in zip(
            *(pair[0].tolist() for pair in (place.start, place.shape, place.resized, place.offset)), strict=True
        )
    )
    inside = [(places >= 0) & (places < side) for places, side in zip((rows, columns), mask.shape, strict=True)]
    seen = np.full((view.size, view.size), ignored, np.uint8)  # what a border adds
    seen[np.ix_(*inside)] = mask[rows[inside[0], None], columns[inside[1]]]
    return seen
