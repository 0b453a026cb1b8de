"""Segmentation masks as the views show them."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64, Shaped, UInt8
from PIL import Image

from eyespot.data_pipeline.augment.crop_geometry import Geometry, center_crops
from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
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
    ignored = shards.manifest.masks.ignored if shards.manifest.masks is not None else 0
    for files in files_beside(shards, ids, shards.masks, "segmentation mask"):
        yield np.stack([seen_from_middle(decoded_mask(file), view, ignored) for file in files])


def files_beside(
    shards: ShardFolder, ids: Int64[np.ndarray, " n"], rows: np.ndarray, what: str
) -> Iterator[list[bytearray]]:
    """What lies beside the images of some samples; in order, a few at a time.

    Args:
        shards: where they are.
        ids: which samples.
        rows: where it lies, of each sample of the shards.
        what: it is, in words.

    Raises:
        UserError: one is damaged or missing.
    """
    if not rows["size"][ids].all():
        lacks = int(ids[rows["size"][ids] == 0][0])
        raise UserError(f"shards {shards.path}: sample {lacks} has no {what}")
    index = shards.index.copy()
    for name in ("offset", "size", "crc32"):
        index[name] = rows[name]
    reader = Reader(shards, substitute=False, index=index)
    try:
        for some in np.split(ids, range(READ_AT_ONCE, len(ids), READ_AT_ONCE)):
            yield reader.start(some).result()[1]
    finally:
        reader.close()


def seen_from_middle(
    mask: Shaped[np.ndarray, "h w"], view: CenterView, ignored: int
) -> Shaped[np.ndarray, "size size"]:
    """A mask, or any other map of an image, as the view for evaluation shows it."""
    return mask_seen(mask, center_crops(view, np.array([mask.shape], np.int32)), 0, view.size, ignored)


def decoded_mask(file: bytearray) -> UInt8[np.ndarray, "h w"]:
    """The class numbers of a mask's file.

    Raises:
        OSError: it cannot be decoded, or is no 8-bit PNG.
    """
    try:
        mask = np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))
    except (SyntaxError, ValueError) as error:
        raise OSError(str(error)) from error
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise OSError("a mask of other than 8 bits")
    return mask


def mask_seen(
    mask: Shaped[np.ndarray, "h w"], place: Geometry, row: int, size: int, ignored: int
) -> Shaped[np.ndarray, "size size"]:
    """A mask, or any other map of the image, as a view shows it.

    Args:
        mask: of the whole image.
        place: how the view is cut from each image.
        row: which image it is.
        size: of the view, pixels.
        ignored: what stands where the view shows no image.
    """
    rows, columns = (
        start + (2 * (offset + np.arange(size)) + 1) * side // (2 * resized)
        for start, side, resized, offset in zip(
            *(pair[row].tolist() for pair in (place.start, place.shape, place.resized, place.offset)), strict=True
        )
    )
    inside = [(places >= 0) & (places < side) for places, side in zip((rows, columns), mask.shape, strict=True)]
    seen = np.full((size, size), ignored, mask.dtype)  # what a border adds
    seen[np.ix_(*inside)] = mask[rows[inside[0], None], columns[inside[1]]]
    return seen[:, ::-1] if place.flip[row] else seen


def see_masks(
    files: Sequence[bytearray], place: Geometry, out: UInt8[np.ndarray, "n size size"], ignored: int, rows: slice
) -> None:
    """Writes some of the masks as a view shows them; of a file without bytes, ``ignored`` all over.

    Args:
        files: of all masks.
        place: how the view is cut from each image.
        out: where all masks go.
        ignored: the class number of what says nothing.
        rows: which masks.

    Raises:
        RuntimeError: one cannot be decoded.
    """
    for row in range(*rows.indices(len(files))):
        try:
            mask = decoded_mask(files[row]) if files[row] else None
        except OSError as error:
            raise RuntimeError(f"a mask: {error}") from error
        out[row] = ignored if mask is None else mask_seen(mask, place, row, out.shape[-1], ignored)
