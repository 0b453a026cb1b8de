"""Plates: a few images side by side as one picture inside the page, with an alternative text and words above and below.

What lies between the images is transparent, so a plate fits the page in the dark and in print.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.pretrain.images.image_grid import as_seen

MIN_SIDE, MAX_SIDE = 96, 176
"""Pixels of an image's shorter side inside a plate: smaller ones are enlarged by a whole factor."""
GAP = 6
"""Pixels between images."""
FRAME = 7
"""Pixels of a frame around an image."""
RIGHT, WRONG = (20, 150, 135), (214, 92, 26)
"""Colours of a frame, readable on light and dark and with any kind of sight."""
_HEAT = ((13, 8, 47), (86, 15, 109), (169, 45, 93), (230, 92, 48), (251, 166, 35), (249, 252, 175))


@dataclass(kw_only=True, slots=True)
class Plate:
    """One picture: rows of images, all of one size."""

    source: str
    """The picture itself, as a data: address."""
    width: int
    height: int
    alt: str
    """What a person who does not see it is told."""
    columns: int
    heads: Sequence[str]
    """Words above the columns."""
    caption: str
    """Words below."""


def draw_plate(
    rows: Sequence[Sequence[Float[Tensor, "3 h w"] | None]],
    *,
    alt: str,
    heads: Sequence[str] = (),
    caption: str = "",
    frames: Mapping[tuple[int, int], tuple[int, int, int]] | None = None,
) -> Plate:
    """Puts images side by side.

    Args:
        rows: values 0..1; None leaves a place empty.
        alt: what a person who does not see it is told.
        heads: words above the columns.
        caption: words below.
        frames: colours of frames, by (row, column).
    """
    canvas = _canvas(rows, frames or {})
    height, width = canvas.shape[:2]
    columns = max(len(row) for row in rows)
    source = _address(canvas)
    return Plate(source=source, width=width, height=height, alt=alt, columns=columns, heads=heads, caption=caption)


def visible(images: Float[Tensor, "*b c h w"], spec: ViewSpec) -> Float[Tensor, "*b 3 h w"]:
    """Images as they were before ``spec`` normalised them, within 0..1; of bands three."""
    return as_seen(images, spec)


def heat(values: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """Dark violet for the least value, bright yellow for the largest; lightness rises evenly, so it prints in grey."""
    low, high = values.min(), values.max()
    places = (values.double() - low) / (high - low).clamp(min=1e-12) * (len(_HEAT) - 1)
    anchors = torch.tensor(_HEAT, dtype=torch.float64, device=values.device) / 255
    first = places.long().clamp(max=len(_HEAT) - 2)
    share = (places - first)[..., None]
    return (anchors[first] * (1 - share) + anchors[first + 1] * share).permute(2, 0, 1).float()


def enlarged(maps: Float[Tensor, "c h w"], height: int, width: int) -> Float[Tensor, "c height width"]:
    """Each value as a block: nothing is made up between the patches."""
    return interpolate(maps[None], (height, width), mode="nearest-exact")[0]


def _canvas(
    rows: Sequence[Sequence[Float[Tensor, "3 h w"] | None]], frames: Mapping[tuple[int, int], tuple[int, int, int]]
) -> UInt8[np.ndarray, "_ _ 4"]:
    height, width = next(tile.shape[1:] for row in rows for tile in row if tile is not None)
    height, width = _shown_size(height, width)
    columns = max(len(row) for row in rows)
    canvas = np.zeros((len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            if tile is None:
                continue
            place = canvas[i * (height + GAP) :, j * (width + GAP) :][:height, :width]
            place[..., :3], place[..., 3] = _pixels(tile, height, width), 255
            if color := frames.get((i, j)):
                inner = place[FRAME:-FRAME, FRAME:-FRAME, :3].copy()
                place[..., :3] = color
                place[FRAME:-FRAME, FRAME:-FRAME, :3] = inner
    return canvas


def _shown_size(height: int, width: int) -> tuple[int, int]:
    side = min(height, width)
    if side > MAX_SIDE:
        return round(height * MAX_SIDE / side), round(width * MAX_SIDE / side)
    factor = -(-MIN_SIDE // side)
    return height * factor, width * factor


def _pixels(tile: Float[Tensor, "3 h w"], height: int, width: int) -> UInt8[np.ndarray, "_ _ 3"]:
    tile = tile.float().cpu()
    if tile.shape[1] > height:
        tile = interpolate(tile[None], (height, width), mode="bilinear", antialias=True)[0]
    elif tile.shape[1] < height:
        tile = enlarged(tile, height, width)
    return tile.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


def _address(canvas: UInt8[np.ndarray, "h w 4"]) -> str:
    """A data: address. WebP: a third of PNG's size for photographs, and transparent where it should be."""
    with io.BytesIO() as file:
        Image.fromarray(canvas).save(file, format="WEBP", quality=88, method=4)
        return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
