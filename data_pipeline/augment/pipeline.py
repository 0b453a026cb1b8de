"""What happens to a view between resize and normalisation, and what is erased after: which steps, in which order.

A view is altered as a pure function of (seed, epoch, sample id, name of the view): RandAugment first, as timm has it,
then the steps of self-supervised methods. The operations themselves are in ``color.py``, ``simclr_steps.py`` and
``rand_augment.py``; the same torch code runs on the CPU and on a GPU, many views at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int8, Int32, Integer
from torch import Tensor

from eyespot.data_pipeline.augment import rand_augment
from eyespot.data_pipeline.augment.color import (
    Levels,
    Operation,
    blur,
    brightness,
    contrast,
    hue,
    saturation,
    solarize,
)
from eyespot.data_pipeline.augment.one_copy import copied
from eyespot.data_pipeline.augment.random_erasing import Erasing, view_erasing
from eyespot.data_pipeline.augment.simclr_steps import (
    NUM_DRAWS,
    TURNS,
    Noise,
    draw_sobel_and_turn,
    sobel,
    view_cutout,
    view_noise,
)
from eyespot.data_pipeline.augment.views import CenterView, ImageView, RandomView
from eyespot.data_pipeline.random_numbers import normals, uniforms

NUM_COLOR_DRAWS = 10
"""Per view: jitter or not, its order, its four amounts; grayscale or not; blur or not, its sigma; solarize or not."""

_RAND_AUGMENT = [operation for operation, _ in rand_augment.CHOICES]
_COLOR = [brightness, contrast, saturation, hue, blur, solarize]
OPERATIONS: tuple[Operation, ...] = (*dict.fromkeys([*_COLOR, *_RAND_AUGMENT]), sobel, *TURNS)
NOTHING, SATURATION, BLUR, SOLARIZE = (-1, *(OPERATIONS.index(each) for each in (saturation, blur, solarize)))
ORDERS = np.array(list(permutations(range(4))), np.int8)
"""Of the jitter's operations, which are the first four."""
_PLACES = np.array([*map(OPERATIONS.index, _RAND_AUGMENT), NOTHING], np.int8)
"""Of RandAugment's choices; the last is its -1."""
_SOBEL_PLACES, _TURN_PLACES = (np.array([*map(OPERATIONS.index, each), NOTHING], np.int8) for each in ([sobel], TURNS))
"""Each with its -1."""

Steps = tuple[Int8[np.ndarray, "b steps"], Float32[np.ndarray, "b steps"]]
"""Indices into OPERATIONS, or NOTHING, and how much of each."""


@dataclass(kw_only=True, slots=True)
class Alteration:
    """What is done to one view of each image of a batch: a few steps, one after another, and what is erased."""

    steps: Int8[np.ndarray, "b steps"]
    """Indices into OPERATIONS, or NOTHING."""
    amounts: Float32[np.ndarray, "b steps"]
    """How much of each."""
    noise: Noise | None = None
    """After the steps."""
    cutout: Int32[np.ndarray, "b 4"] | None = None
    """After normalisation: top, left, height and width of each square; without height none."""
    erasing: Erasing | None = None
    """After that."""

    def rows(self, rows: slice | Integer[np.ndarray, " n"]) -> "Alteration":
        """The alteration of some of the images."""
        return Alteration(
            steps=self.steps[rows],
            amounts=self.amounts[rows],
            noise=self.noise and self.noise.rows(rows),
            cutout=None if self.cutout is None else self.cutout[rows],
            erasing=self.erasing and self.erasing.rows(rows),
        )


def view_alteration(
    view: ImageView, name: str, seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"]
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
    if view.sobel or view.turn:
        parts.append(sobel_and_turn_steps(view, uniforms(seed, epochs, ids, f"{name}/sobel-turn", NUM_DRAWS)))
    noise = view_noise(view, name, seed, epochs, ids) if view.noise else None
    cutout = view_cutout(view, name, seed, epochs, ids) if view.cutout else None
    erasing = view_erasing(view.erase, view.size, name, seed, epochs, ids) if view.erase else None
    if not parts and noise is None and cutout is None and erasing is None:
        return None
    none = np.empty((len(ids), 0), np.int8), np.empty((len(ids), 0), np.float32)
    steps, amounts = (np.concatenate(columns, axis=1) for columns in zip(*(parts or [none]), strict=True))
    return Alteration(steps=steps, amounts=amounts, noise=noise, cutout=cutout, erasing=erasing)


def sobel_and_turn_steps(view: RandomView, numbers: Float32[np.ndarray, "b 3"]) -> Steps:
    """Sobel filter and quarter turn, as a view asks for them, driven by given numbers."""
    drawn = draw_sobel_and_turn(view, numbers)
    steps = np.stack([_SOBEL_PLACES[drawn[:, 0]], _TURN_PLACES[drawn[:, 1]]], axis=1)
    return steps, np.zeros(steps.shape, np.float32)


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


@dataclass(kw_only=True, slots=True)
class Plan:
    """All steps of an alteration, one after another, and the numbers that they need where the levels lie.

    Before each step the views are sorted, so that those with the same operation go together. To sort is cheaper than to
    pick the views of one operation and put them back: one plain copy of whole views.
    """

    changes: list[tuple[Operation | None, slice]]
    """Of which of the views, as they are sorted then; None = the views are put into another order."""
    arrays: list[np.ndarray]
    """For each change its numbers, or the order: the rows of the views that come first, second, ..."""

    def carry_out(self, levels: Levels, numbers: Sequence[Tensor]) -> None:
        """Changes levels in place, with ``arrays`` as tensors on their device."""
        views = spare = levels
        for (operation, part), own in zip(self.changes, numbers, strict=True):
            if operation is not None:
                operation.apply(views[part], own)
                continue
            if spare is views:
                spare = torch.empty_like(views)
            views, spare = torch.index_select(views, 0, own, out=spare), views
        if views is not levels:
            levels.copy_(views)


def planned(alteration: Alteration, size: int) -> Plan:
    """What ``alter`` does to views of this size, pixels."""
    rows = np.arange(len(alteration.steps))  # a view came as number rows[i]
    changes: list[tuple[Operation | None, slice]] = []
    arrays: list[np.ndarray] = []
    for column in range(alteration.steps.shape[1]):
        steps = alteration.steps[rows, column]
        if (steps[1:] < steps[:-1]).any():
            order = np.argsort(steps, kind="stable")
            rows, steps = rows[order], steps[order]
            changes.append((None, slice(None)))
            arrays.append(order)
        for step in np.unique(steps[steps != NOTHING]).tolist():
            part = slice(*np.searchsorted(steps, (step, step + 1)).tolist())
            changes.append((OPERATIONS[step], part))
            arrays.append(OPERATIONS[step].numbers(alteration.amounts[rows[part], column], size))
    if sum(operation is None for operation, _ in changes) % 2 or (rows[1:] < rows[:-1]).any():
        changes.append((None, slice(None)))
        arrays.append(np.argsort(rows))
    return Plan(changes=changes, arrays=arrays)


def alter(levels: Levels, alteration: Alteration) -> None:
    """Does all steps, in place."""
    plan = planned(alteration, levels.shape[3])
    plan.carry_out(levels, copied(plan.arrays, levels.device))
