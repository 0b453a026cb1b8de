"""The steps of SimCLR's study of augmentations that no method kept (Chen et al. 2020, arXiv:2002.05709, section 3).

Sobel filter and quarter turns are done on levels, as the steps of ``color.py``; Gaussian noise comes onto the levels
after all of these; cutout (DeVries & Taylor 2017, arXiv:1708.04552) into the normalised view. The paper shows each of
them once (figure 4) and gives no strengths: those here are ours, but for cutout's, which are its authors' for CIFAR-10.

A sample gives the same bits in whatever batch, for the reasons in ``color.py``; IEEE 754 defines square roots too.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int8, Int32, Int64, Integer
from torch import Tensor

from eyespot.data_pipeline.augment.color import Levels, Numbers, operation
from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.random_numbers import normals, uniforms

NUM_DRAWS = 3
"""Per view: Sobel or not; turned or not, and how far."""


@operation()
def sobel(levels: Levels, _: Numbers) -> None:
    """The length of each channel's gradient, levels per pixel; the view's outermost pixels are repeated around it.

    A quarter of Sobel's two sums of differences, so that an edge from 0 to 255 is 255.
    """
    padded = F.pad(levels, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., :-2] + padded[..., 2:]).add_(padded[..., 1:-1] * 2)
    down = (padded[..., :-2, :] + padded[..., 2:, :]).add_(padded[..., 1:-1, :] * 2)
    rise = across[..., 2:, :] - across[..., :-2, :]
    slope = down[..., 2:] - down[..., :-2]
    torch.mul(rise.mul_(rise).add_(slope.mul_(slope)).sqrt_(), 0.25, out=levels).clamp_(max=255)


@operation()
def quarter_turn(levels: Levels, _: Numbers) -> None:
    """By 90 degrees, counterclockwise."""
    levels.copy_(levels.rot90(1, (2, 3)).clone())


@operation()
def half_turn(levels: Levels, _: Numbers) -> None:
    """By 180 degrees."""
    levels.copy_(levels.rot90(2, (2, 3)).clone())


@operation()
def three_quarter_turn(levels: Levels, _: Numbers) -> None:
    """By 270 degrees, counterclockwise."""
    levels.copy_(levels.rot90(3, (2, 3)).clone())


TURNS = (quarter_turn, half_turn, three_quarter_turn)


def draw_sobel_and_turn(view: RandomView, numbers: Float32[np.ndarray, "b 3"]) -> Int8[np.ndarray, "b 2"]:
    """Whether each view is filtered (0, or -1), and which of TURNS it makes, or -1.

    Args:
        view: what is asked for.
        numbers: uniform in [0, 1), one row of NUM_DRAWS per sample.
    """
    which, turns, turn = numbers.astype(np.float64).T
    return np.stack(
        [
            np.where(which < view.sobel, 0, -1),
            np.where(turns < view.turn, (turn * len(TURNS)).astype(int), -1),
        ],
        axis=1,
    ).astype(np.int8)


@dataclass(kw_only=True, slots=True)
class Noise:
    """How much noise comes onto one view of each image of a batch, and which samples' noise that is."""

    sigmas: Float32[np.ndarray, " b"]
    """Standard deviations, 8-bit levels; 0 = none."""
    seed: int
    epochs: Integer[np.ndarray, " b"]
    ids: Integer[np.ndarray, " b"]
    """Whose it is."""
    stream: str

    def rows(self, rows: slice | Integer[np.ndarray, " n"]) -> "Noise":
        """The noise of some of the images."""
        return Noise(
            sigmas=self.sigmas[rows],
            seed=self.seed,
            epochs=self.epochs[rows],
            ids=self.ids[rows],
            stream=self.stream,
        )

    def arrays(self, size: int, channels: int = 3) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n c h w"]]:
        """Which views of this size, pixels, get noise, and what is added to their levels."""
        rows = np.flatnonzero(self.sigmas)
        drawn = normals(self.seed, self.epochs[rows], self.ids[rows], self.stream, channels * size**2)
        drawn *= self.sigmas[rows, None]
        return rows, drawn.reshape(len(rows), channels, size, size)


def view_noise(
    view: RandomView, name: str, seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"]
) -> Noise:
    """The noise on the view ``name`` of each sample: a pure function of (seed, epoch, id, name)."""
    whether, strength = uniforms(seed, epochs, ids, f"{name}/gaussian", 2).astype(np.float64).T
    low, high = view.noise_sigma
    sigmas = np.where(whether < view.noise, 255 * (low + (high - low) * strength), 0.0).astype(np.float32)
    return Noise(sigmas=sigmas, seed=seed, epochs=epochs, ids=ids, stream=f"{name}/gaussian-noise")


def add_noise(levels: Levels, rows: Int64[Tensor, " n"], noise: Float32[Tensor, "n c h w"]) -> None:
    """Adds noise to some of the views, which are clipped to 0..255; in place, all on one device."""
    if len(rows):
        levels.index_copy_(0, rows, levels.index_select(0, rows).add_(noise).clamp_(0, 255))


def view_cutout(
    view: RandomView, name: str, seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"]
) -> Int32[np.ndarray, "b 4"]:
    """Top, left, height and width of what is cut out of the view ``name`` of each sample; without height nothing is.

    A square whose middle is any pixel of the view, so part of it may lie outside: a pure function of (seed, epoch, id,
    name).
    """
    numbers = uniforms(seed, epochs, ids, f"{name}/cutout", 3).astype(np.float64)
    side = max(1, round(view.cutout_side * view.size))
    start = np.floor(numbers[:, 1:] * view.size).astype(int) - side // 2
    first, last = np.maximum(start, 0), np.minimum(start + side, view.size)
    return (np.concatenate([first, last - first], axis=1) * (numbers[:, :1] < view.cutout)).astype(np.int32)


def cut_out(views: Float[Tensor, "b c h w"], boxes: Int32[np.ndarray, "b 4"]) -> None:
    """Puts 0, the data's mean colour, into the squares of normalised views, in place."""
    for row in np.flatnonzero(boxes[:, 2]).tolist():
        top, left, height, width = boxes[row].tolist()
        views[row, :, top : top + height, left : left + width] = 0
