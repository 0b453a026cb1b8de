"""ImageDecoder: from an encoder's feature map back to pixels, for methods that predict images."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.eval_mode import at_rest

CHANNELS_PER_GROUP = 16
MIN_DIM = 16
"""Channels that are left at the finest resolution, where there were so many to begin with."""


def grid_of(encoder: nn.Module, image_size: int) -> tuple[int, int]:
    """Height and width of the encoder's feature map (``last_tokens``), found by a look at one black image.

    The encoder stays as it was; on torch's meta device nothing is computed.

    Args:
        encoder: a timm encoder.
        image_size: height and width of what it sees, pixels.

    Raises:
        UserError: timm does not hand out the feature map of this architecture.
    """
    device = next(encoder.parameters()).device
    with at_rest(encoder):
        height, width = last_tokens(encoder, torch.zeros(1, 3, image_size, image_size, device=device))[
            -1
        ].patches.shape[2:]
    return height, width


class ImageDecoder(nn.Module):
    """A 1x1 convolution, then doublings of height and width until the image is as large as it should be.

    A doubling repeats each pixel, convolves 3x3 and halves the channels. Its norm is over groups of channels, not over
    the batch: what is made of a sample depends on that sample alone.

    Args:
        width: channels of the feature map.
        grid: its height and width.
        image_size: height and width of the image, pixels.
        out_channels: channels of the image.
        hidden_dim: channels at the feature map's own resolution.
        out_size: height and width of what is made, pixels, where it is smaller than the image.

    Raises:
        UserError: the feature map is larger than what is to be made of it.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        image_size: int,
        out_channels: int,
        hidden_dim: int = 128,
        out_size: int | None = None,
    ) -> None:
        super().__init__()
        size = out_size or image_size
        if max(grid) > size:
            raise UserError(
                f"encoder: its feature map of {grid[0]} x {grid[1]} is larger than the {size} pixels to be made of it;"
                " use larger patches or a larger encoder.image_size"
            )
        self.reduce = nn.Sequential(nn.Conv2d(width, hidden_dim, 1, bias=False), group_norm(hidden_dim), nn.ReLU())
        self.doublings, dim = nn.Sequential(), hidden_dim
        while min(grid) < size:
            grid = (min(2 * grid[0], size), min(2 * grid[1], size))
            halved = max(dim // 2, min(dim, MIN_DIM))
            self.doublings.append(_Doubling(dim, halved, grid))
            dim = halved
        self.last = nn.Conv2d(dim, out_channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "b width h w"]) -> Float[Tensor, "b channels size size"]:
        """An image for each feature map."""
        return self.last(self.doublings(self.reduce(maps)))


class _Doubling(nn.Module):
    """To a resolution at most twice as high."""

    def __init__(self, dim: int, out_dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(dim, out_dim, 3, padding=1, bias=False)
        self.norm = group_norm(out_dim)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return F.relu(self.norm(self.conv(F.interpolate(maps, self.size, mode="nearest"))))


def group_norm(dim: int) -> nn.GroupNorm:
    """Over groups of about ``CHANNELS_PER_GROUP`` channels of one sample."""
    return nn.GroupNorm(math.gcd(dim, max(1, dim // CHANNELS_PER_GROUP)), dim)
