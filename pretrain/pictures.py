"""Writes what an objective shows: small images enlarged, so that a person sees pixels and not a smudge."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eyespot.data_pipeline.views import ViewSpec

MIN_HEIGHT = 288


def write_picture(picture: Float[Tensor, "3 h w"], spec: ViewSpec, path: Path) -> None:
    """Undoes the normalisation of ``spec``, clamps to 0..1 and writes a PNG, whole or not at all."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    pixels = (picture.float().cpu() * std + mean).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    factor = max(1, MIN_HEIGHT // pixels.shape[0])
    enlarged = np.kron(pixels.numpy(), np.ones((factor, factor, 1), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    Image.fromarray(enlarged).save(partial, format="PNG")
    partial.replace(path)
