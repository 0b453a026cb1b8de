"""Position embeddings that are computed, and do not learn."""

import math

import numpy as np
import timm
import torch
from jaxtyping import Float64
from torch import Tensor

from eyespot.data_pipeline.errors import UserError


def fix_positions(vit: timm.models.VisionTransformer, method: str) -> None:
    """Puts the sine-cosine table where the learned position embedding was, and freezes it; prefix tokens have none.

    Raises:
        UserError: the encoder has no absolute position embedding, and ``method`` needs one.
    """
    positions = vit.pos_embed
    if positions is None:
        raise UserError(f"encoder: {method} needs an absolute position embedding, and this encoder has none")
    height, width = vit.patch_embed.grid_size
    with torch.no_grad():
        positions.zero_()
        positions[0, -height * width :] = sincos_positions(positions.shape[-1], height, width)
    positions.requires_grad_(False)


def check_sincos(field: str, dim: int, heads: int = 1) -> None:
    """That ``sincos_positions`` can have so many channels, which as many heads share.

    Raises:
        UserError: a wrong number.
    """
    if dim % 4:
        step = math.lcm(4, heads)
        raise UserError(
            f"{field} {dim}: must be a multiple of 4, for sines and cosines of rows and columns;"
            f" try {math.ceil(dim / step) * step}"
        )


def check_decoder(dim: int, heads: int) -> None:
    """``objective.decoder_dim``, of a decoder with such positions and so many heads.

    Raises:
        UserError: a wrong number.
    """
    if dim % heads:
        raise UserError(f"objective.decoder_dim {dim}: must be a multiple of objective.decoder_heads {heads}")
    check_sincos("objective.decoder_dim", dim, heads)


def sincos_positions(dim: int, height: int, width: int) -> Float64[Tensor, "n dim"]:
    """Fixed sine-cosine position embedding of a grid of patches, row-major (MAE, He et al. 2021, A.1).

    The first half of the channels encodes the column, the second the row, as in the authors' code; each half is
    sin(p w_i), cos(p w_i) with w_i = 10000^(-i / (dim / 4)) (Vaswani et al. 2017). On the meta device, where a
    stranger's settings are measured, it takes no memory either.
    """
    if dim % 4:
        raise UserError(f"position embedding of dim {dim}: must be a multiple of 4")
    if torch.get_default_device().type == "meta":
        return torch.empty((height * width, dim), dtype=torch.float64)
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    angles = [position[:, None] * frequencies for position in (columns, rows)]
    return torch.from_numpy(np.concatenate([part(angle) for angle in angles for part in (np.sin, np.cos)], axis=1))


def sincos_times(dim: int, count: int) -> Float64[Tensor, "n dim"]:
    """Fixed sine-cosine embedding of the times of a clip, to be added to that of places; the first is nothing.

    Time t is sin(t w_i), cos(t w_i) - 1 with w_i = 10000^(-i / (dim / 2)): so an image is the first time of a clip.
    """
    if torch.get_default_device().type == "meta":
        return torch.empty((count, dim), dtype=torch.float64)
    angles = np.arange(count)[:, None] * 10000.0 ** (-np.arange(dim // 2) / (dim / 2))
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles) - 1], axis=1))
