"""Principal components of image patches."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from eyespot.pretrain.images.patchify import patchify

AT_ONCE = 8192
"""Patches that are widened to double precision at once."""


def spread_patches(images: Float[Tensor, "b 3 h w"], size: int, count: int) -> Float[Tensor, "b n p"]:
    """So many of each image's patches, spread evenly over their order row by row; all where there are fewer.

    Args:
        images: (B, 3, H, W).
        size: height and width of a patch, pixels.
        count: of an image.
    """
    patches = patchify(images, size)
    total = patches.shape[1]
    if count >= total:
        return patches
    return patches[:, ((torch.arange(count, device=images.device) + 0.5) * total / count).long()]


def principal_components(
    rows: Float[Tensor, "n p"], dim: int
) -> tuple[Float64[Tensor, " p"], Float64[Tensor, "p dim"], Float64[Tensor, " dim"]]:
    """The rows' mean, their directions of most variance as columns of unit length, and the variances, largest first.

    A direction's largest number is above 0, so that the same rows give the same directions.

    Args:
        rows: patches; at least one.
        dim: how many directions, at most as many as a row has numbers.
    """
    mean = rows.mean(0, dtype=torch.float64)
    scatter = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for some in rows.split(AT_ONCE):
        centred = some.double() - mean
        scatter += centred.T @ centred
    variances, directions = torch.linalg.eigh(scatter / len(rows))
    variances, directions = variances[-dim:].flip(0).clamp_min(0), directions[:, -dim:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return mean, directions * largest.sign(), variances
