"""What the kernels of ``rand_augment_kernels.py`` are told of a batch: which steps of which view, in which launch.

A step changes each pixel by itself, or it moves: it reads other pixels. A program makes its pixels by one moving step,
those before it done again at each pixel that is read, those after it to the result. So only a view that is moved a
second time is kept in memory in between; and a step that has to know the whole view (MEASURED) waits for a launch that
looks at the view as it is before. That is at most a launch each per step, and one for all views at the end.

Plain numbers, made on the CPU; Triton is not needed for them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32

from eyespot.data_pipeline.augment.color import contrast
from eyespot.data_pipeline.augment.pipeline import NOTHING, OPERATIONS
from eyespot.data_pipeline.augment.rand_augment import (
    CHOICES,
    autocontrast,
    equalize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)

MOVING = [OPERATIONS.index(each) for each in (rotate, shear_x, shear_y, translate_x, translate_y, sharpness)]
"""Read other pixels than those that they write."""
MEASURED = [OPERATIONS.index(each) for each in (autocontrast, contrast, equalize)]
"""Need a mean, extremes or a histogram of the whole view."""
NUM_MEASURES = 3 * 256
"""Room for what is found of a view: equalize needs a table per channel."""
_KNOWN = [NOTHING, *(OPERATIONS.index(operation) for operation, _ in CHOICES)]
_PROVEN_TWICE = ((sharpness, rotate), (shear_y, autocontrast), (translate_x, contrast), (rotate, shear_x))
"""Pairs in which a view is measured or moved after it was moved; none of them makes a rounding large."""

Launch = Literal["measure", "keep", "finish"]


@dataclass(kw_only=True, slots=True)
class AugmentTables:
    """RandAugment's steps of one view of each image of a batch."""

    steps: Int32[np.ndarray, "b steps"]
    """Indices into OPERATIONS, or NOTHING."""
    amounts: Float32[np.ndarray, "b steps"]
    """How much of each."""
    places: Int32[np.ndarray, "b steps"]
    """Where each step's further numbers begin: among ``given``, or of MEASURED ones among what the launches find."""
    given: Float32[np.ndarray, " numbers"]
    """Of each move, as the operation takes them."""
    jobs: Int32[np.ndarray, "jobs 5"]
    """Of each view in each launch: row; first step that is done, step that moves (-1 = none), end of the steps; which
    of the views in memory is written, or read where the first step is not 0."""
    launches: list[tuple[Launch, slice]]
    """What to do, one after another, with which jobs."""
    num_measured: int
    num_kept: int

    @property
    def arrays(self) -> list[np.ndarray]:
        """What the kernels read."""
        return [self.jobs, self.steps, self.amounts, self.places, self.given]


def augment_tables(
    steps: Int32[np.ndarray, "b steps"], amounts: Float32[np.ndarray, "b steps"], size: int
) -> AugmentTables | None:
    """The tables of views of this size; None where a step is none of RandAugment's, or one is moved three times."""
    planned = _jobs(steps)
    if planned is None or not np.isin(steps, _KNOWN).all():
        return None
    jobs, launches, num_kept = planned
    amounts, places, given = amounts.copy(), np.zeros(steps.shape, np.int32), [np.zeros(0, np.float32)]
    begin = 0
    for step in np.unique(steps[steps != NOTHING]).tolist():
        at = np.nonzero(steps == step)
        numbers = OPERATIONS[step].numbers(amounts[at], size)
        if numbers.ndim == 1:
            amounts[at] = numbers
            continue
        each = np.moveaxis(numbers, 1, 0).reshape(len(at[0]), -1)
        places[at] = begin + each.shape[1] * np.arange(len(each))
        given.append(each.ravel())
        begin += each.size
    measured = np.isin(steps, MEASURED)
    places[measured] = NUM_MEASURES * np.arange(measured.sum())
    return AugmentTables(
        steps=steps,
        amounts=amounts,
        places=places,
        given=np.concatenate(given),
        jobs=jobs,
        launches=launches,
        num_measured=int(measured.sum()),
        num_kept=num_kept,
    )


def _jobs(
    steps: Int32[np.ndarray, "b steps"],
) -> tuple[Int32[np.ndarray, "jobs 5"], list[tuple[Launch, slice]], int] | None:
    """Jobs, launches, and how many views are kept in memory; None where one would have to be kept twice."""
    count = len(steps)
    rows, begin, moves, slot = np.arange(count), np.zeros(count, int), np.full(count, -1), np.zeros(count, int)
    jobs: list[np.ndarray] = []
    launches: list[tuple[Launch, slice]] = []
    num_kept = 0

    def launch(kind: Launch, chosen: np.ndarray, end: int) -> None:
        if chosen.any():
            first = sum(map(len, jobs))
            jobs.append(np.stack([rows, begin, moves, np.full(count, end), slot], axis=1)[chosen])
            launches.append((kind, slice(first, first + len(jobs[-1]))))

    for column in range(steps.shape[1]):
        launch("measure", np.isin(steps[:, column], MEASURED), column)
        moved = np.isin(steps[:, column], MOVING)
        again = moved & (moves >= 0)
        if (again & (begin > 0)).any():
            return None
        slot[again] = num_kept + np.arange(again.sum())
        num_kept += int(again.sum())
        launch("keep", again, column)
        begin[again] = column
        moves[moved] = column
    launch("finish", np.ones(count, bool), steps.shape[1])
    return np.concatenate(jobs).astype(np.int32), launches, num_kept


def proving_steps() -> tuple[Int32[np.ndarray, "views 2"], Float32[np.ndarray, "views 2"]]:
    """Steps and amounts of views that show whether the kernels do what torch does: each operation, and some pairs."""
    amounts = {operation: amount(np.array([0.6]), np.array([-1.0]))[0] for operation, amount in CHOICES}
    numbers = {operation: OPERATIONS.index(operation) for operation in amounts}
    alone = [(numbers[operation], NOTHING, amounts[operation], 0.0) for operation in amounts]
    pairs = [(numbers[one], numbers[two], amounts[one], amounts[two]) for one, two in _PROVEN_TWICE]
    table = np.array(alone + pairs)
    return table[:, :2].astype(np.int32), table[:, 2:].astype(np.float32)
