"""RandAugment: two operations, drawn for each view, at one magnitude (Cubuk et al. 2020, arXiv:1909.13719).

The operations and their strengths are those that DeiT, BEiT and MAE train with, called "rand-m9-mstd0.5-inc1" in timm:
15 of them, all stronger at a larger magnitude, which is drawn anew each time; each is done with probability 1/2. What
differs: floating-point levels, as in ``color.py``, where PIL cuts off to whole ones after each operation; bicubic
weights with slope -0.75, where PIL's have -1; what comes into the view from outside is gray (128), as in the authors'
code, where timm takes the mean of the data set; and posterize leaves one bit at least, where timm leaves none in one or
two of a thousand views, which is a black view or, with a recent PIL, an error.

A sample gives the same bits in whatever batch, for the reasons in ``color.py``: sums are of whole numbers or in a fixed
order, and torch resamples each view by itself.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Float64, Int8
from torch import Tensor

from eyespot.data_pipeline.augment.color import (
    Levels,
    Numbers,
    Operation,
    brightness,
    contrast,
    operation,
    per_view,
    saturation,
)

NUM_STEPS = 2
"""Operations per view."""
PROBABILITY = 0.5
"""That a drawn operation is done."""
MAX_MAGNITUDE = 10
"""Where every operation is at its strongest."""
NUM_DRAWS = 3 * NUM_STEPS
"""Per view, for each step: which operation, whether it is done, in which direction."""
OUTSIDE = 128
"""Level of what lies outside the view."""

Doubles = Float64[np.ndarray, "*views"]
Moves = Float32[Tensor, "6 b lines"]


@operation()
def autocontrast(levels: Levels, _: Numbers) -> None:
    """Each channel stretched to 0..255; one whose levels are all the same stays."""
    low, high = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    spread = high - low
    stretched = spread >= 1  # as among whole levels; else differences that come from rounding would be blown up
    low, factor = low * stretched, torch.where(stretched, 255 / spread, 1)
    levels.sub_(low).mul_(factor).clamp_(0, 255)


@operation()
def equalize(levels: Levels, _: Numbers) -> None:
    """Each channel's whole levels mapped so that they are about equally frequent: PIL's table, in whole numbers."""
    planes = levels.flatten(2).flatten(0, 1)
    pixels = planes.round().long()
    top = pixels.amax(1, keepdim=True)
    one = torch.ones((), dtype=torch.int64, device=levels.device)
    counts = one.new_zeros(len(planes), 256).scatter_add_(1, pixels, one.expand_as(pixels))  # bincount would wait
    pixels += 256 * torch.arange(len(planes), device=levels.device)[:, None]
    step = (planes.shape[1] - counts.gather(1, top)) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=levels.device))
    levels.copy_(table.float().flatten().index_select(0, pixels.flatten()).view_as(levels))


@operation()
def invert(levels: Levels, _: Numbers) -> None:
    """255 minus the level."""
    levels.neg_().add_(255)


@operation(lambda bits, _: 2 ** (8 - bits))
def posterize(levels: Levels, steps: Numbers) -> None:
    """Only so many of the highest bits of each level stay: multiples of the step."""
    step = per_view(steps)
    levels.div_(step).floor_().mul_(step)


@operation()
def invert_above(levels: Levels, thresholds: Numbers) -> None:
    """Levels at the threshold and above it are inverted."""
    side = torch.copysign(torch.ones((), device=levels.device), levels - per_view(thresholds))
    levels.sub_(127.5).mul_(side.neg_()).add_(127.5)  # torch.where takes ten times as long on the CPU


@operation(lambda additions, _: additions / 2)
def add_below(levels: Levels, halves: Numbers) -> None:
    """Levels below 128 become lighter."""
    half = per_view(halves)
    levels.add_(torch.copysign(half, 127.5 - levels).add_(half))


@operation()
def sharpness(levels: Levels, factors: Numbers) -> None:
    """The distance from the smoothed view times the factor; pixels at the border stay."""
    factor, inner = per_view(factors), levels[:, :, 1:-1, 1:-1]
    columns = (levels[:, :, :-2] + levels[:, :, 1:-1]).add_(levels[:, :, 2:])
    smooth = (columns[:, :, :, :-2] + columns[:, :, :, 1:-1]).add_(columns[:, :, :, 2:])
    smooth.add_(inner * 4).mul_((1 - factor) / torch.full((), 13.0, device=levels.device))
    inner.mul_(factor).add_(smooth).clamp_(0, 255)


@operation(lambda slopes, size: _moves(slopes[:, None] * (np.arange(size) + 0.5)))
def shear_x(levels: Levels, moves: Moves) -> None:
    """Each row moved to the left by its distance from the top times the slope."""
    _move(levels, 3, moves)


@operation(lambda slopes, size: _moves(slopes[:, None] * (np.arange(size) + 0.5)))
def shear_y(levels: Levels, moves: Moves) -> None:
    """Each column moved up by its distance from the left edge times the slope."""
    _move(levels, 2, moves)


@operation(lambda shares, size: _moves(np.outer(shares, np.full(size, float(size)))))
def translate_x(levels: Levels, moves: Moves) -> None:
    """Moved to the left by a share of the width."""
    _move(levels, 3, moves)


@operation(lambda shares, size: _moves(np.outer(shares, np.full(size, float(size)))))
def translate_y(levels: Levels, moves: Moves) -> None:
    """Moved up by a share of the height."""
    _move(levels, 2, moves)


def _moves(distances: Float64[np.ndarray, "b lines"]) -> Float32[np.ndarray, "6 b lines"]:
    """By how many whole pixels each line is moved, by what share of one more, and the weights of the pixels there."""
    begin = np.floor(distances)
    return np.stack([begin, distances - begin, *cubic_weights(distances - begin)]).astype(np.float32)


def _move(levels: Levels, axis: int, moves: Moves) -> None:
    """Moves each row (``axis`` 3) or column (2) along itself by so many pixels: a third of the time of rotate's way."""
    size = levels.shape[axis]
    along = (-1, 1) if axis == 2 else (1, -1)
    whole, offset, *weights = moves[:, :, None, :, None] if axis == 3 else moves[:, :, None, None, :]
    places = torch.arange(-1, size + 2, device=levels.device).view(along) + whole.long()
    inside = (places.narrow(axis, 1, size) + (offset + (0.5 - size / 2))).abs_() <= size / 2
    near = levels.gather(axis, places.clamp_(0, size - 1).expand(-1, 3, -1, -1))
    torch.mul(near.narrow(axis, 0, size), weights[0], out=levels)
    for tap in (1, 2, 3):
        levels.add_(near.narrow(axis, tap, size) * weights[tap])
    _gray_outside(levels, inside)


def cubic_weights(offsets: Float64[np.ndarray, "*lines"]) -> Float64[np.ndarray, "4 *lines"]:
    """Of the four pixels around a place (Keys 1981, equation 15, slope -0.75), which lies in 0..1 from the second."""
    near, far = np.stack([offsets, 1 - offsets]), np.stack([1 + offsets, 2 - offsets])
    before, after = -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
    first, second = 1.25 * near**3 - 2.25 * near**2 + 1
    return np.stack([before, first, second, after])


def _turns(degrees: Float32[np.ndarray, " b"], _: int) -> Float32[np.ndarray, "2 b"]:
    angles = np.radians(degrees.astype(np.float64)).astype(np.float32)
    return np.stack([np.cos(angles), np.sin(angles)])


@operation(_turns)
def rotate(levels: Levels, turns: Float32[Tensor, "2 b"]) -> None:
    """Turned counterclockwise around the middle, by angles of these cosines and sines; views are square."""
    size = torch.full((), float(levels.shape[3]), device=levels.device)
    cos, sin = turns[:, :, None, None]
    line = (torch.arange(levels.shape[3], device=levels.device) * 2 + 1) / size - 1
    x, y = line[None, None, :], line[None, :, None]
    right, down = x * cos - y * sin, x * sin + y * cos
    grid = torch.stack([right, down], dim=3)
    levels.copy_(F.grid_sample(levels, grid, mode="bicubic", padding_mode="border", align_corners=False))
    _gray_outside(levels, (torch.maximum(right.abs_(), down.abs_()) <= 1)[:, None])


def _gray_outside(levels: Levels, inside: Bool[Tensor, "b 1 h w"]) -> None:
    """Levels that overshoot are clipped; those that were read from outside the view become gray."""
    levels.clamp_(0, 255).sub_(OUTSIDE).mul_(inside.float()).add_(OUTSIDE)


def _no_amount(strengths: Doubles, _: Doubles) -> Doubles:
    return 0 * strengths


def _factor(strengths: Doubles, signs: Doubles) -> Doubles:
    return np.maximum(1 + 0.9 * strengths * signs, 0.1)


CHOICES: tuple[tuple[Operation, Callable[[Doubles, Doubles], Doubles]], ...] = (
    (autocontrast, _no_amount),
    (equalize, _no_amount),
    (invert, _no_amount),
    (rotate, lambda strengths, signs: 30 * strengths * signs),
    (posterize, lambda strengths, _: np.maximum(4 - np.floor(4 * strengths), 1)),
    (invert_above, lambda strengths, _: 256 - np.floor(256 * strengths)),
    (add_below, lambda strengths, _: np.floor(110 * strengths)),
    (saturation, _factor),
    (contrast, _factor),
    (brightness, _factor),
    (sharpness, _factor),
    (shear_x, lambda strengths, signs: 0.3 * strengths * signs),
    (shear_y, lambda strengths, signs: 0.3 * strengths * signs),
    (translate_x, lambda strengths, signs: 0.45 * strengths * signs),
    (translate_y, lambda strengths, signs: 0.45 * strengths * signs),
)
"""Each operation, and its amount at a strength of 0..1 in the direction -1 or 1. All are as likely."""


def draw_steps(
    magnitude: float, std: float, numbers: Float32[np.ndarray, "b draws"], normals: Float32[np.ndarray, "b steps"]
) -> tuple[Int8[np.ndarray, "b steps"], Float32[np.ndarray, "b steps"]]:
    """Which of CHOICES are done to each view, or -1, and how much of each.

    Args:
        magnitude: 0 to MAX_MAGNITUDE.
        std: standard deviation of the magnitude.
        numbers: uniform in [0, 1), NUM_DRAWS per view.
        normals: of the standard normal distribution, NUM_STEPS per view.
    """
    which, whether, direction = numbers.astype(np.float64).reshape(-1, NUM_STEPS, 3).transpose(2, 0, 1)
    chosen = (which * len(CHOICES)).astype(np.int8)
    strengths = np.clip(magnitude + std * normals.astype(np.float64), 0, MAX_MAGNITUDE) / MAX_MAGNITUDE
    signs = np.where(direction < 0.5, -1.0, 1.0)
    every = np.stack([amount(strengths, signs) for _, amount in CHOICES])
    amounts = np.take_along_axis(every, chosen[None].astype(int), axis=0)[0]
    return np.where(whether < PROBABILITY, chosen, np.int8(-1)), amounts.astype(np.float32)
