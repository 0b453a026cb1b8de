"""The frames of some samples side by side, as a picture: what a video holds is best judged by eye."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

HEIGHT, GAP = 96, 4
"""Of a frame in the picture, and between them, pixels."""
MOST_FRAMES = 12
WIDEST = 4
"""Times as wide as high; what is wider is squeezed."""
MASK_COLORS = np.array(
    [(240, 50, 220), (50, 120, 230), (250, 190, 40), (60, 180, 90), (230, 60, 50), (240, 130, 40)], np.float64
)
"""Of the objects of masks, in their order: the first is one that little else has."""


def draw_frames(shards: ShardFolder, path: Path, num_samples: int) -> int:
    """Writes a PNG: a row for each stream of the first samples, with frames evenly spread over its whole length.

    Where frames have masks, half of a pixel's colour is its class's; class 0, and what is ignored, stays as it is.

    Returns:
        How many rows.

    Raises:
        UserError: the shards have no frames, or one, or its mask, cannot be read.
    """
    rows = [
        [_frame(shards, int(clip["first"]) + n) for n in spread(int(clip["count"]))]
        for streams in shards.clips[:num_samples]
        for clip in streams
    ]
    width = max(sum(frame.width + GAP for frame in row) for row in rows) - GAP
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) - GAP), "white")
    for place, row in enumerate(rows):
        left = 0
        for frame in row:
            sheet.paste(frame, (left, place * (HEIGHT + GAP)))
            left += frame.width + GAP
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"out {path}: cannot be written ({error.strerror or error})") from error
    return len(rows)


def spread(count: int) -> list[int]:
    """Numbers of frames, first and last among them, evenly apart; all where there are few."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int)).tolist()


def _frame(shards: ShardFolder, row: int) -> Image.Image:
    tar, offset, size, *_ = shards.frames[row].item()
    image = _opened(shards, tar, offset, size, f"frame {row}").convert("RGB")
    image = image.resize((min(max(1, round(image.width * HEIGHT / image.height)), WIDEST * HEIGHT), HEIGHT))
    if not shards.manifest.frames or not shards.manifest.frames.masks_sha256:
        return image
    offset, size, *_ = shards.frame_masks[row].item()
    if not size:
        return image
    mask = _opened(shards, tar, offset, size, f"the mask of frame {row}")
    ignored = shards.manifest.masks.ignored if shards.manifest.masks else None
    return _tinted(image, np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)), ignored)


def _opened(shards: ShardFolder, tar: int, offset: int, size: int, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(shards.read_tar(tar, offset, size)), formats=("JPEG", "PNG"))
        image.load()
    except (OSError, ValueError, SyntaxError, UserError, Image.DecompressionBombError) as error:
        place = shards.tar_path(tar)
        raise UserError(f"{place}: {what} cannot be read; find all damage: eyespot shards verify") from error
    return image


def _tinted(image: Image.Image, mask: UInt8[np.ndarray, "h w"], ignored: int | None) -> Image.Image:
    pixels, marked = np.asarray(image).astype(np.float64), (mask != 0) & (mask != ignored)
    pixels[marked] = (pixels[marked] + MASK_COLORS[(mask[marked].astype(int) - 1) % len(MASK_COLORS)]) / 2
    return Image.fromarray(pixels.round().astype(np.uint8))
