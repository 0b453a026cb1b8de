"""Convolutions that see no pixel, and no colour of the own pixel, that comes later (van den Oord et al. 2016).

An image is read row by row, from left to right, of each pixel first red, then green, then blue. Channels come in three
groups of equal width, one a colour. Rows below and columns to the right are no part of the kernels; of the own pixel a
mask leaves the groups that may be seen (arXiv:1601.06759, section 3.4).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

COLORS = 3


class AboveConv(nn.Conv2d):
    """Of the rows above and, unless it is the first, of the own one: the vertical stack's, which knows rows above only.

    Args:
        in_channels: of the map.
        out_channels: of what comes out.
        kernel_size: odd; as wide, and half as high, does it see.
        first: the map is the image itself, of which its own row must not be seen.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, first: bool = False) -> None:
        self.reach, self.first = kernel_size // 2, first
        super().__init__(in_channels, out_channels, (self.reach + (not first), kernel_size))

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """As large as the map."""
        padded = F.pad(input, (self.reach, self.reach, self.reach, 0))
        return super().forward(padded[:, :, :-1] if self.first else padded)


class LeftConv(nn.Conv2d):
    """Of the columns to the left and of what may be seen of the own pixel: the horizontal stack's.

    Args:
        in_channels: a multiple of three.
        out_channels: a multiple of three times ``parts``.
        kernel_size: odd; half as far to the left does it see.
        mask: of the own pixel, earlier colours only ("A", for the image itself), or the own one, too ("B").
        parts: of what comes out, each of which has its three groups.
    """

    mask: Float[Tensor, "d c 1 k"]

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, mask: Literal["A", "B"], parts: int = 1
    ) -> None:
        self.reach = kernel_size // 2
        super().__init__(in_channels, out_channels, (1, self.reach + 1))
        into = torch.arange(COLORS).repeat_interleave(in_channels // COLORS)
        out = torch.arange(COLORS).repeat_interleave(out_channels // COLORS // parts).repeat(parts)
        seen = torch.ones_like(self.weight, requires_grad=False)
        seen[:, :, 0, -1] = (into < out[:, None] if mask == "A" else into <= out[:, None]).to(seen.dtype)
        self.register_buffer("mask", seen, persistent=False)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """As large as the map."""
        seen = self.weight * self.mask.to(self.weight.dtype)  # FSDP may gather weights, but not masks, in bf16
        return F.conv2d(F.pad(input, (self.reach, 0, 0, 0)), seen, self.bias)
