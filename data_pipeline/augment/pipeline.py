"""What happens to a view between resize and normalisation, and what is erased after: which steps, in which order.

A view is altered as a pure function of (seed, epoch, sample id, name of the view): RandAugment first, as timm has it,
then the steps of self-supervised methods. The operations themselves are in ``color.py`` and ``rand_augment.py``; the
same torch code runs on the CPU and on a GPU, many views at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int8, Int64, Integer
from torch import Tensor

from eyespot.data_pipeline.augment import rand_augment
from eyespot.data_pipeline.augment.color import Amounts, Levels, blur, brightness, contrast, hue, saturation, solarize
from eyespot.data_pipeline.augment.random_erasing import Erasing, view_erasing
from eyespot.data_pipeline.augment.views import CenterView, RandomView, View
from eyespot.data_pipeline.random_numbers import normals, uniforms

NUM_COLOR_DRAWS = 10
"""Per view: jitter or not, its order, its four amounts; grayscale or not; blur or not, its sigma; solarize or not."""

_RAND_AUGMENT = [operation for operation, _ in rand_augment.CHOICES]
_COLOR = [brightness, contrast, saturation, hue, blur, solarize]
OPERATIONS: tuple[Callable[[Tensor, Amounts], None], ...] = tuple(dict.fromkeys([*_COLOR, *_RAND_AUGMENT]))
NOTHING, SATURATION, BLUR, SOLARIZE = (-1, *(OPERATIONS.index(each) for each in (saturation, blur, solarize)))
ORDERS = np.array(list(permutations(range(4))), np.int8)
"""Of the jitter's operations, which are the first four."""
_PLACES = np.array([*map(OPERATIONS.index, _RAND_AUGMENT), NOTHING], np.int8)
"""Of RandAugment's choices; the last is its -1."""

Steps = tuple[Int8[np.ndarray, "b steps"], Float32[np.ndarray, "b steps"]]
"""Indices into OPERATIONS, or NOTHING, and how much of each."""


@dataclass(kw_only=True, slots=True)
class Alteration:
    """What is done to one view of each image of a batch: a few steps, one after another, and what is erased."""

    steps: Int8[np.ndarray, "b steps"]
    """Indices into OPERATIONS, or NOTHING."""
    amounts: Float32[np.ndarray, "b steps"]
    """How much of each."""
    erasing: Erasing | None = None
    """After normalisation."""

    def rows(self, rows: slice) -> "Alteration":
        """The alteration of some of the images."""
        erasing = self.erasing and self.erasing.rows(rows)
        return Alteration(steps=self.steps[rows], amounts=self.amounts[rows], erasing=erasing)


def view_alteration(
    view: View, name: str, seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"]
) -> Alteration | None:
    """What to do to the view ``name`` of each sample: a pure function of (seed, epoch, id, name). None = nothing."""
    if isinstance(view, CenterView):
        return None
    parts: list[Steps] = []
    if view.rand_augment:
        numbers = uniforms(seed, epochs, ids, f"{name}/rand-augment", rand_augment.NUM_DRAWS)
        magnitudes = normals(seed, epochs, ids, f"{name}/magnitude", rand_augment.NUM_STEPS)
        chosen, amounts = rand_augment.draw_steps(view.rand_augment, view.rand_augment_std, numbers, magnitudes)
        parts.append((_PLACES[chosen], amounts))
    if any(view.jitter) or view.grayscale or view.blur or view.solarize:
        parts.append(color_steps(view, uniforms(seed, epochs, ids, f"{name}/color", NUM_COLOR_DRAWS)))
    erasing = view_erasing(view.erase, view.size, name, seed, epochs, ids) if view.erase else None
    if not parts and erasing is None:
        return None
    none = np.empty((len(ids), 0), np.int8), np.empty((len(ids), 0), np.float32)
    steps, amounts = (np.concatenate(columns, axis=1) for columns in zip(*(parts or [none]), strict=True))
    return Alteration(steps=steps, amounts=amounts, erasing=erasing)


def color_steps(view: RandomView, numbers: Float32[np.ndarray, "b 10"]) -> Steps:
    """Jitter, grayscale, blur and solarize, as a view asks for them, driven by given numbers.

    Args:
        view: what is asked for.
        numbers: uniform in [0, 1), one row of NUM_COLOR_DRAWS per sample.
    """
    steps = np.full((len(numbers), 7), NOTHING, np.int8)
    amounts = np.zeros((len(numbers), 7), np.float32)
    steps[:, :4], amounts[:, :4] = _jitter(view, numbers[:, :6].astype(np.float64))
    low, high = view.blur_sigma
    amounts[:, 5] = low + (high - low) * numbers[:, 8]
    later = ((6, view.grayscale, SATURATION), (7, view.blur, BLUR), (9, view.solarize, SOLARIZE))
    for step, (draw, probability, operation) in enumerate(later, start=4):
        steps[numbers[:, draw] < probability, step] = operation
    return steps, amounts


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


def alter(levels: Levels, alteration: Alteration) -> None:
    """Does all steps, in place. Before each, the views are sorted, so that those with the same operation go together.

    To sort is cheaper than to pick the views of one operation and put them back: one plain copy of whole views.
    """
    views, spare, rows = levels, torch.empty_like(levels), np.arange(len(levels))  # views[i] came as number rows[i]
    for column in range(alteration.steps.shape[1]):
        steps = alteration.steps[rows, column]
        if (steps[1:] < steps[:-1]).any():
            order = np.argsort(steps, kind="stable")
            views, spare = _pick(views, order, spare), views
            rows, steps = rows[order], steps[order]
        for operation in np.unique(steps[steps != NOTHING]).tolist():
            part = slice(*np.searchsorted(steps, (operation, operation + 1)))
            OPERATIONS[operation](views[part], alteration.amounts[rows[part], column])
    moved = views is not levels or (rows[1:] < rows[:-1]).any()
    if moved and (restored := _pick(views, np.argsort(rows), spare)) is not levels:
        levels.copy_(restored)


def _pick(views: Levels, rows: Int64[np.ndarray, " b"], out: Levels) -> Levels:
    return torch.index_select(views, 0, torch.from_numpy(rows).to(views.device), out=out)
