"""Segmentation masks: a class number for each pixel of an image, as a PNG beside it in the shards.

    KEY.jpg, KEY.seg.png     the image and its mask, 8-bit gray, of the same height and width
    SHARDS/masks.npy         one row per sample, in the order of index.npy: where the mask lies in the sample's tar
    manifest.json, "masks"   how many there are, pixels of each class, which number says nothing, sha256 of masks.npy

Shards without masks have none of these.
"""

import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import (
    BadImage,
    StoredMask,
    encode_png,
    exif_orientation,
    shrunk_size,
    turn,
)
from eyespot.data_pipeline.shards.manifest import IGNORED
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import FrameFiles, mask_beside
from eyespot.data_pipeline.shards.members.items import Item, Source

_PLAIN = {("L", 8), ("P", 1), ("P", 2), ("P", 4), ("P", 8)}
"""PIL's modes and the file's bits whose values PIL leaves as they are; gray of fewer bits it stretches to 0..255."""


def add_masks(source: Source, folder: Path) -> None:
    """Names the mask of each image of a source: the PNG of the same path and name in ``folder``, there or not.

    Of frames too; of those, some may have none.

    Raises:
        UserError: there is no such folder, or it has the mask of no image.
    """
    if not folder.is_dir():
        raise UserError(f"masks {folder}: no such folder; it holds a PNG of class numbers for each image")
    found = 0
    for split, items in source.splits.items():
        if any(isinstance(item.frames, FrameFiles) for item in items):
            source.splits[split] = [_with_masks_of_frames(item, folder) for item in items]
        else:
            source.splits[split] = [item._replace(mask=mask_beside(item.name, folder)) for item in items]
        found += sum(place.size >= 0 for item in source.splits[split] for _, place in _masks(item))
    if not found:
        name, expected = next(named for items in source.splits.values() for item in items for named in _masks(item))
        raise UserError(f"masks {folder}: holds the mask of no image; that of {name} would be {expected.path}")


def _with_masks_of_frames(item: Item, folder: Path) -> Item:
    if not isinstance(item.frames, FrameFiles):
        return item
    return item._replace(frames=item.frames.with_masks(folder))


def _masks(item: Item) -> Iterator[tuple[str, Place]]:
    """Names of an item's images, with where their masks would lie."""
    if isinstance(item.frames, FrameFiles):
        yield from ((file.name, file.mask) for files in item.frames.files.values() for file in files if file.mask)
    elif item.mask:
        yield item.name, item.mask


def notes_on_masks(counts: Sequence[int], ignored: int) -> list[str]:
    """What to tell of masks, a line each: those drawn in black and white, as DAVIS-2016's, lose their white.

    Args:
        counts: pixels of each value 0..255 in all masks.
        ignored: the class number of what says nothing.
    """
    if ignored != IGNORED or {value for value, count in enumerate(counts) if count} != {0, IGNORED}:
        return []
    return [
        f"masks hold 0 and {IGNORED} alone, and {IGNORED} says nothing: there is no object in them; write 1 in place of"
        f" {IGNORED}, or, for eval propagate, pack with --mask-ignored {IGNORED - 1}"
    ]


def examine_mask(
    data: bytes, size: tuple[int, int], resize: int | None = None, *, in_place: bool = False, orientation: int = 1
) -> StoredMask:
    """Decodes a mask completely, and makes it one of 8-bit gray that fits its image.

    Args:
        data: of a PNG, gray or with a palette.
        size: height and width of the image as it is stored, pixels.
        resize: as in ``images.examine``; the mask is shrunk as the image was, to the nearest pixel.
        in_place: nothing can be rewritten; one with a palette stays as it is.
        orientation: EXIF's, by which the image was turned; the mask, drawn on the image's pixels as they lie in the
            file, is turned alike. One with an orientation of its own follows that; one that already has the size of
            the turned image, and not that of the file's, was drawn upright and stays so.

    Raises:
        BadImage: it is no such PNG, or has another size than the image.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        bits = data[24]
        image.load()
    except Exception as error:  # hostile bytes make PIL raise almost anything
        raise BadImage("its mask is no whole PNG") from error
    if (image.mode, bits) not in _PLAIN:
        raise BadImage(f"its mask is a PNG of {bits} bits {image.mode}; class numbers need 8-bit gray or a palette")
    upright = image if in_place else turned_like(image, size, resize, orientation)
    shrunk = upright.resize(shrunk_size(upright.size, resize), Image.Resampling.NEAREST)
    if (shrunk.height, shrunk.width) != size:
        raise BadImage(f"its mask is {shrunk.width} x {shrunk.height} pixels where the image is {size[1]} x {size[0]}")
    pixels = np.asarray(shrunk)
    if not in_place and (image.mode != "L" or shrunk.size != image.size or upright is not image):
        data = encode_png(pixels.tobytes(), pixels.shape)
    counts = np.bincount(pixels.ravel(), minlength=256).tolist()
    return StoredMask(data=data, crc32=zlib.crc32(data), counts=counts)


def turned_like(mask: Image.Image, size: tuple[int, int], resize: int | None, orientation: int) -> Image.Image:
    """A mask or depth map turned as its image was; see ``examine_mask``."""
    own = exif_orientation(mask)
    if own == 1 and orientation >= 5:  # height and width change places: the size tells how the mask was drawn
        width, height = shrunk_size(mask.size, resize)
        if (height, width) == size and height != width:
            return mask
    return turn(mask, own if own != 1 else orientation)
