"""Writes what an objective shows: small images enlarged, so that a person sees pixels and not a smudge."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec

NUM_PICTURED = 8


MIN_SIDE = 96
GAP = 4


def write_picture(grid: Float[Tensor, "rows columns 3 h w"], spec: ViewSpec, path: Path) -> None:
    """Undoes the normalisation of ``spec``, clamps to 0..1 and writes a PNG of the grid, whole or not at all.

    Images below MIN_SIDE pixels are enlarged by a whole factor; GAP white pixels lie between them.
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    pixels = (grid.float().cpu() * std + mean).clamp(0, 1).mul(255).round().byte().permute(0, 1, 3, 4, 2).numpy()
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
