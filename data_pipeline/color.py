"""What happens to a view between resize and normalisation: colour jitter, grayscale, blur, solarize.

Each step is what torchvision does on floating-point images: 8-bit levels as float32, clipped to 0..255 after every step
of the jitter, hue rotated in HSV. The same torch code runs on the CPU and on a GPU, many views at a time.

A sample gives the same bits in whatever batch: there are only single additions, multiplications, roundings and the
like, which IEEE 754 defines to the last bit, and the one sum is of whole numbers. No ``alpha=``, ``addcmul``, ``lerp``,
convolution or matrix product: their rounding depends on how a kernel was built and on the shape of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int8, Int64, Integer
from torch import Tensor

from eyespot.data_pipeline.draws import uniforms
from eyespot.data_pipeline.views import CenterView, RandomView, View

Levels = Float32[Tensor, "b 3 h w"]
"""Views in planes, 8-bit levels 0..255; changed in place."""
Amounts = Float32[np.ndarray, " b"]

NUM_DRAWS = 10
"""Per view: jitter or not, its order, its four amounts; grayscale or not; blur or not, its sigma; solarize or not."""
FAR = 4
"""Weights of the blur beyond so many standard deviations are left out: together they are less than 0.02 levels."""


def brightness(levels: Levels, factors: Amounts) -> None:
    """Every level times the factor."""
    levels.mul_(_each(factors, levels)).clamp_(0, 255)


def contrast(levels: Levels, factors: Amounts) -> None:
    """The distance from the view's mean gray times the factor.

    The mean is of whole levels, as in torchvision's path for 8-bit images: their sum is exact in any order.
    """
    height, width = levels.shape[2:]
    total = gray(levels).round_().sum(3).sum(2, dtype=torch.float64)
    factor = _each(factors, levels)
    rest = (total / (height * width)).float()[:, :, None, None] * (1 - factor)
    levels.mul_(factor).add_(rest).clamp_(0, 255)


def saturation(levels: Levels, factors: Amounts) -> None:
    """The distance from the pixel's gray times the factor; 0 leaves the gray."""
    factor = _each(factors, levels)
    rest = gray(levels).mul_(1 - factor)
    levels.mul_(factor).add_(rest).clamp_(0, 255)


def hue(levels: Levels, turns: Amounts) -> None:
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
    place.add_(_each(6 * turns, levels)[:, 0])
    place.sub_((place / 6).round_().mul_(6))  # back into -3..3
    shares = place.abs().sub_(1), 2 - (place + 1).abs_(), 2 - (place - 1).abs_()
    for channel, share in zip((red, green, blue), shares, strict=True):
        torch.add(share.clamp_(0, 1).mul_(chroma), low, out=channel)


def blur(levels: Levels, sigmas: Amounts) -> None:
    """A separable Gaussian, the view mirrored at its edges, cut off at a twentieth of the size to either side."""
    size = levels.shape[3]
    weights = gaussian_weights(sigmas, size // 20)
    radius = weights.shape[1] - 1
    each = [_each(column, levels) for column in weights.T.astype(np.float32)]
    for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(levels, padding, mode="reflect")
        torch.mul(padded.narrow(axis, radius, size), each[0], out=levels)
        for distance in range(1, radius + 1):
            pair = padded.narrow(axis, radius - distance, size) + padded.narrow(axis, radius + distance, size)
            levels.add_(pair.mul_(each[distance]))


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


def solarize(levels: Levels, _: Amounts) -> None:
    """Levels of 128 and more are inverted: the smaller of a level and its inverse."""
    torch.minimum(levels, 255 - levels, out=levels)


def gray(levels: Levels) -> Float32[Tensor, "b 1 h w"]:
    """The luma of ITU-R BT.601."""
    red, green, blue = levels.split(1, dim=1)
    return (red * 0.299).add_(green * 0.587).add_(blue * 0.114)


def _each(amounts: Amounts, levels: Levels) -> Float32[Tensor, "b 1 1 1"]:
    """One number per view, where the views are."""
    return torch.from_numpy(amounts).to(levels.device)[:, None, None, None]


OPERATIONS: tuple[Callable[[Tensor, Amounts], None], ...] = (brightness, contrast, saturation, hue, blur, solarize)
NOTHING, SATURATION, BLUR, SOLARIZE = (-1, *(OPERATIONS.index(each) for each in (saturation, blur, solarize)))
ORDERS = np.array(list(permutations(range(4))), np.int8)
"""Of the jitter's operations, which are the first four."""


@dataclass(kw_only=True, slots=True)
class Coloring:
    """What is done to one view of each image of a batch: up to seven steps, one after another."""

    steps: Int8[np.ndarray, "b 7"]
    """Indices into OPERATIONS, or NOTHING."""
    amounts: Float32[np.ndarray, "b 7"]
    """How much of each."""

    def rows(self, rows: slice) -> "Coloring":
        """The coloring of some of the images."""
        return Coloring(steps=self.steps[rows], amounts=self.amounts[rows])


def view_coloring(
    view: View, name: str, seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"]
) -> Coloring | None:
    """What to do to the view ``name`` of each sample: a pure function of (seed, epoch, id, name). None = nothing."""
    if isinstance(view, CenterView) or not (any(view.jitter) or view.grayscale or view.blur or view.solarize):
        return None
    return random_coloring(view, uniforms(seed, epochs, ids, f"{name}/color", NUM_DRAWS))


def random_coloring(view: RandomView, numbers: Float32[np.ndarray, "b 10"]) -> Coloring:
    """The steps that a view asks for, driven by given numbers.

    Args:
        view: what is asked for.
        numbers: uniform in [0, 1), one row of NUM_DRAWS per sample.
    """
    steps = np.full((len(numbers), 7), NOTHING, np.int8)
    amounts = np.zeros((len(numbers), 7), np.float32)
    steps[:, :4], amounts[:, :4] = _jitter(view, numbers[:, :6].astype(np.float64))
    low, high = view.blur_sigma
    amounts[:, 5] = low + (high - low) * numbers[:, 8]
    later = ((6, view.grayscale, SATURATION), (7, view.blur, BLUR), (9, view.solarize, SOLARIZE))
    for step, (draw, probability, operation) in enumerate(later, start=4):
        steps[numbers[:, draw] < probability, step] = operation
    return Coloring(steps=steps, amounts=amounts)


def _jitter(
    view: RandomView, numbers: Float64[np.ndarray, "b 6"]
) -> tuple[Int8[np.ndarray, "b 4"], Float64[np.ndarray, "b 4"]]:
    """Steps and amounts, in each sample's order."""
    changes = np.array(view.jitter)
    middle = np.array([1, 1, 1, 0])
    low, high = np.maximum(middle - changes, [0, 0, 0, -1]), middle + changes
    order = ORDERS[(numbers[:, 1] * len(ORDERS)).astype(int)]
    wanted = (numbers[:, :1] < view.jitter_probability) & (changes > 0)[order]
    amounts = np.take_along_axis(low + (high - low) * numbers[:, 2:], order.astype(int), axis=1)
    return np.where(wanted, order, np.int8(NOTHING)), amounts


def recolor(levels: Levels, coloring: Coloring) -> None:
    """Does all steps, in place. Before each, the views are sorted, so that those with the same operation go together.

    To sort is cheaper than to pick the views of one operation and put them back: one plain copy of whole views.
    """
    views, spare, rows = levels, torch.empty_like(levels), np.arange(len(levels))  # views[i] came as number rows[i]
    for column in range(coloring.steps.shape[1]):
        steps = coloring.steps[rows, column]
        if (steps[1:] < steps[:-1]).any():
            order = np.argsort(steps, kind="stable")
            views, spare = _pick(views, order, spare), views
            rows, steps = rows[order], steps[order]
        for operation in np.unique(steps[steps != NOTHING]).tolist():
            part = slice(*np.searchsorted(steps, (operation, operation + 1)))
            OPERATIONS[operation](views[part], coloring.amounts[rows[part], column])
    if len(levels) > 1 and (restored := _pick(views, np.argsort(rows), spare)) is not levels:
        levels.copy_(restored)


def _pick(views: Levels, rows: Int64[np.ndarray, " b"], out: Levels) -> Levels:
    return torch.index_select(views, 0, torch.from_numpy(rows).to(views.device), out=out)
