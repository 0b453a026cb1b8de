"""Writes what an objective shows: small images enlarged, so that a person sees pixels and not a smudge."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec

NUM_PICTURED = 8


SHOWN = 3
"""Channels of a picture."""
MIN_SIDE = 96
GAP = 4


def as_seen(images: Float[Tensor, "*b c h w"], spec: ViewSpec) -> Float[Tensor, "*b 3 h w"]:
    """What a person sees of normalised images, 0..1.

    Of RGB the image as it was. Of any other number of bands the first three are shown as red, green and blue, the first
    of fewer as gray: each from two standard deviations below its mean, black, to two above it.
    """
    if spec.channels != 3:
        shown = images[..., : SHOWN if spec.channels > SHOWN else 1, :, :].float()
        return (shown / 4 + 0.5).clamp(0, 1).expand(*shown.shape[:-3], SHOWN, *shown.shape[-2:])
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (spec.mean, spec.std))
    return (images.float() * std + mean).clamp(0, 1)


def shown_bands(channels: int) -> str:
    """Which of so many bands ``as_seen`` shows, in words; empty of RGB."""
    which = f"bands 1, 2 and 3 of {channels} as red, green and blue" if channels > SHOWN else "band 1 as gray"
    return "" if channels == SHOWN else f"{which}, each from two deviations below its mean to two above"


def write_picture(grid: Float[Tensor, "rows columns c h w"], spec: ViewSpec, path: Path) -> None:
    """Writes a PNG of the grid as it is ``as_seen``, whole or not at all.

    Images below MIN_SIDE pixels are enlarged by a whole factor; GAP white pixels lie between them.
    """
    pixels = as_seen(grid.cpu(), spec).mul(255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    factor = max(1, MIN_SIDE // pixels.shape[2])
    enlarged = pixels.repeat(factor, axis=2).repeat(factor, axis=3)
    rows, columns, height, width, _ = enlarged.shape
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + GAP), column * (width + GAP)
            canvas[top : top + height, left : left + width] = enlarged[row, column]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    Image.fromarray(canvas).save(partial, format="PNG")
    partial.replace(path)
