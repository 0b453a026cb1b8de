"""Colour operations on views between resize and normalisation: jitter, grayscale, blur, solarize.

Brightness, contrast and blur are of any bands; the others of red, green and blue alone.

Each step is what torchvision does on floating-point images: 8-bit levels as float32, clipped to 0..255 after every step
of the jitter, hue rotated in HSV. The same torch code runs on the CPU and on a GPU, many views at a time.

A sample gives the same bits in whatever batch: there are only single additions, multiplications, roundings and the
like, which IEEE 754 defines to the last bit, and the one sum is of whole numbers. No ``alpha=``, ``addcmul``, ``lerp``,
convolution or matrix product: their rounding depends on how a kernel was built and on the shape of the batch. Nor is
anything divided by a Python number: on a GPU, torch multiplies by its inverse, which rounds otherwise.
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64
from torch import Tensor

from eyespot.data_pipeline.augment.one_copy import copied

Levels = Float32[Tensor, "b c h w"]
"""Views in planes, levels 0..255 of 8 bits, or of 16 in 257ths; changed in place. Three are red, green and blue."""
Amounts = Float32[np.ndarray, " b"]
Numbers = Float32[Tensor, " b"]

FAR = 4
"""Weights of the blur beyond so many standard deviations are left out: together they are less than 0.02 levels."""


class Operation:
    """One step: numbers of the amounts on the CPU, and a change of the levels by these numbers, wherever they lie.

    Two parts, so that the numbers of all steps of a batch go to a GPU together.
    """

    numbers: Callable[[Amounts, int], Any]
    """Of the amounts and the size of the views, pixels: an array that ``apply`` is to have on the levels' device."""
    apply: Callable[[Tensor, Tensor], None]
    """Changes levels in place by these numbers."""

    def __init__(self, apply: Callable[[Tensor, Tensor], None], numbers: Callable[[Amounts, int], Any]):
        self.apply, self.numbers = apply, numbers
        update_wrapper(self, apply)

    def __call__(self, levels: Levels, amounts: Amounts) -> None:
        """Changes levels in place, each view by its amount."""
        self.apply(levels, *copied([self.numbers(amounts, levels.shape[3])], levels.device))


def operation(numbers: Callable[[Amounts, int], Any] = lambda amounts, _: amounts) -> Callable[..., Operation]:
    """Makes an operation of a function of levels and numbers; without an argument, the numbers are the amounts."""
    return lambda apply: Operation(apply, numbers)


def gaussian_weights(sigmas: Amounts, radius: int) -> Float64[np.ndarray, "b taps"]:
    """The weights at distances 0, 1, ... of each sigma, up to the last that any of them needs.

    Args:
        sigmas: standard deviations, pixels.
        radius: the largest distance, pixels.
    """
    sigma = sigmas.astype(np.float64)[:, None]
    distances = np.arange(radius + 1)
    weights = np.exp(-0.5 * (distances / sigma) ** 2) * (distances <= np.ceil(FAR * sigma))
    weights /= weights[:, :1] + 2 * weights[:, 1:].sum(1, keepdims=True)
    return weights[:, : np.flatnonzero(weights.any(0))[-1] + 1]


@operation()
def brightness(levels: Levels, factors: Numbers) -> None:
    """Every level times the factor."""
    levels.mul_(per_view(factors)).clamp_(0, 255)


@operation()
def contrast(levels: Levels, factors: Numbers) -> None:
    """The distance from the view's mean gray times the factor.

    The mean is of whole levels, as in torchvision's path for 8-bit images: their sum is exact in any order. Bands that
    are no RGB have no gray: each has a mean of its own, of whole 257ths.
    """
    if levels.shape[1] != 3:
        whole = (levels * 257).round_().sum((2, 3), dtype=torch.float64)
        count = torch.full((), 257.0 * levels[0, 0].numel(), dtype=torch.float64, device=levels.device)
        rest = (whole / count).float()[:, :, None, None] * (1 - per_view(factors))
        levels.mul_(per_view(factors)).add_(rest).clamp_(0, 255)
        return
    total = gray(levels).round_().sum(3).sum(2, dtype=torch.float64)
    factor, count = per_view(factors), torch.full((), levels[0, 0].numel(), dtype=torch.float64, device=levels.device)
    rest = (total / count).float()[:, :, None, None] * (1 - factor)
    levels.mul_(factor).add_(rest).clamp_(0, 255)


@operation()
def saturation(levels: Levels, factors: Numbers) -> None:
    """The distance from the pixel's gray times the factor; 0 leaves the gray."""
    factor = per_view(factors)
    rest = gray(levels).mul_(1 - factor)
    levels.mul_(factor).add_(rest).clamp_(0, 255)


@operation(lambda turns, _: 6 * turns)
def hue(levels: Levels, sixths: Numbers) -> None:
    """Rotates the hue of HSV; value and saturation stay.

    The hue is a place on a circle of six units, red at 0, green at 2, blue at 4. Where the largest channel is 1 and the
    smallest 0, its distance from red is green + blue - red + 1 all around the circle, and the channel of red is
    2 - distance clipped to 0..1: no case has to be told from another.
    """
    red, green, blue = levels.unbind(1)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(low)
    distance = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-3)).add_(1)
    place = torch.copysign(3 - distance, blue - green)  # from cyan, opposite of red: green at -1, blue at +1
    place.add_(per_view(sixths)[:, 0])
    place.sub_((place / torch.full((), 6.0, device=levels.device)).round_().mul_(6))  # back into -3..3
    shares = place.abs().sub_(1), 2 - (place + 1).abs_(), 2 - (place - 1).abs_()
    for channel, share in zip((red, green, blue), shares, strict=True):
        torch.add(share.clamp_(0, 1).mul_(chroma), low, out=channel)


@operation(lambda sigmas, size: gaussian_weights(sigmas, size // 20).T.astype(np.float32))
def blur(levels: Levels, weights: Float32[Tensor, "taps b"]) -> None:
    """A separable Gaussian, the view mirrored at its edges, cut off at a twentieth of the size to either side."""
    size, radius = levels.shape[3], len(weights) - 1
    each = [per_view(column) for column in weights]
    for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(levels, padding, mode="reflect")
        torch.mul(padded.narrow(axis, radius, size), each[0], out=levels)
        for distance in range(1, radius + 1):
            pair = padded.narrow(axis, radius - distance, size) + padded.narrow(axis, radius + distance, size)
            levels.add_(pair.mul_(each[distance]))


@operation()
def solarize(levels: Levels, _: Numbers) -> None:
    """Levels of 128 and more are inverted: the smaller of a level and its inverse."""
    torch.minimum(levels, 255 - levels, out=levels)


def gray(levels: Levels) -> Float32[Tensor, "b 1 h w"]:
    """The luma of ITU-R BT.601."""
    red, green, blue = levels.split(1, dim=1)
    return (red * 0.299).add_(green * 0.587).add_(blue * 0.114)


def per_view(numbers: Numbers) -> Float32[Tensor, "b 1 1 1"]:
    """One number per view."""
    return numbers[:, None, None, None]
