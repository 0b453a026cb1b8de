"""What the kernels of ``view_kernels.py`` are told of a batch: which steps each view goes through, and who is blurred.

RandAugment's steps, which come first, have kernels and tables of their own. Plain numbers, made on the CPU; Triton is
not needed for them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32

from eyespot.data_pipeline.augment.color import brightness, contrast, gaussian_weights, hue, saturation, solarize
from eyespot.data_pipeline.augment.pipeline import BLUR, NOTHING, OPERATIONS, Alteration
from eyespot.data_pipeline.augment.rand_augment import NUM_STEPS
from eyespot.data_pipeline.augment.rand_augment_tables import AugmentTables, augment_tables
from eyespot.data_pipeline.augment.random_erasing import Erasing, erasing_noise

POINTWISE = (brightness, contrast, saturation, hue, solarize)
"""What the kernels can do to a pixel; beside them they blur, once."""
CONTRAST, HUE = OPERATIONS.index(contrast), OPERATIONS.index(hue)
_KNOWN = [NOTHING, BLUR, *map(OPERATIONS.index, POINTWISE)]
NUM_COLOR_ARRAYS = 11
"""Of a view's ``arrays``, those of colours, erasing and mirroring; RandAugment's follow."""
MAX_SIZE = 2048
"""Pixels: the sum of a larger view's gray levels may not fit into 32 bits, nor its rows into a program."""


@dataclass(kw_only=True, slots=True)
class ViewTables:
    """Steps of one view of each image of a batch."""

    augment: AugmentTables | None
    """Of RandAugment, before all else."""
    steps: Int32[np.ndarray, "b steps"]
    """Indices into OPERATIONS, or NOTHING."""
    amounts: Float32[np.ndarray, "b steps"]
    """How much of each; of hue, sixths of a turn."""
    gray_rows: Int32[np.ndarray, " grays"]
    """Of the views whose contrast changes."""
    gray_ends: Int32[np.ndarray, " grays"]
    """Which of their steps that is."""
    sharp_rows: Int32[np.ndarray, " sharp"]
    """Of the views that are not blurred."""
    blurred_rows: Int32[np.ndarray, " blurred"]
    """Of those that are."""
    weights: Float32[np.ndarray, "blurred taps"]
    """At distances 0, 1, ... pixels."""
    blur: int
    """Which step the blur is."""
    ends: Int32[np.ndarray, "rows 6"]
    """Top, left, height and width of what is erased, whose noise comes there, and whether the view is mirrored last;
    without rows nothing of that happens to any view."""
    noise: Float32[np.ndarray, "erased count"]
    """What comes into each erased rectangle."""

    @property
    def kernels(self) -> tuple[bool, bool, bool, int, bool, bool]:
        """Which kernels these views need: gray levels, sharp views, blurred ones; after how many steps the blur is;
        and whether there is RandAugment, and an erased or mirrored view."""
        colors = len(self.gray_rows) > 0, len(self.sharp_rows) > 0, len(self.blurred_rows) > 0
        return *colors, self.blur, self.augment is not None, len(self.ends) > 0

    @property
    def arrays(self) -> list[np.ndarray]:
        """What the kernels read; the third of those of colours are zeros that they add gray levels to."""
        totals = np.zeros(len(self.steps), np.int32)
        radii = (np.cumsum(self.weights[:, ::-1] != 0, axis=1) > 0).sum(1, dtype=np.int32) - np.int32(1)
        before = [self.ends, self.noise, self.steps, self.amounts, totals, self.gray_rows, self.gray_ends]
        colors = [*before, self.sharp_rows, self.blurred_rows, radii.astype(np.int32), self.weights]
        return [*colors, *(self.augment.arrays if self.augment else [])]


def view_tables(
    alteration: Alteration | None, count: int, size: int, mirrored: Bool[np.ndarray, " b"] | None = None
) -> ViewTables | None:
    """The tables of so many views of this size; None where the kernels cannot do what is asked.

    After RandAugment's steps contrast may change once in a view, before it is blurred. Sobel filter, quarter turns,
    noise and cutout they do not know.

    Args:
        alteration: what is done to the views.
        count: of the views.
        size: of the views, pixels.
        mirrored: who is, at the end; None = nobody.
    """
    if size > MAX_SIZE or (alteration and (alteration.noise is not None or alteration.cutout is not None)):
        return None
    steps = np.zeros((count, 0), np.int32) if alteration is None else alteration.steps.astype(np.int32)
    amounts = np.zeros((count, 0), np.float32) if alteration is None else alteration.amounts.copy()
    for begin in sorted({0, min(NUM_STEPS, steps.shape[1])}):
        (steps0, steps1), (amounts0, amounts1) = (
            [np.ascontiguousarray(part) for part in np.split(each, [begin], axis=1)] for each in (steps, amounts)
        )
        augment = augment_tables(steps0, amounts0, size) if begin else None
        colors = _color_tables(steps1, amounts1, size)
        if colors is not None and (augment is not None or not begin):
            ends, noise = _ends(alteration and alteration.erasing, mirrored)
            return ViewTables(augment=augment, **colors, ends=ends, noise=noise)
    return None


def _color_tables(
    steps: Int32[np.ndarray, "b steps"], amounts: Float32[np.ndarray, "b steps"], size: int
) -> dict[str, Any] | None:
    blurs, contrasts = steps == BLUR, steps == CONTRAST
    columns = np.flatnonzero(blurs.any(0))
    column = columns[0] if len(columns) else steps.shape[1]
    if not np.isin(steps, _KNOWN).all() or len(columns) > 1:
        return None
    if contrasts[:, column:].any() or contrasts.sum(1).max(initial=0) > 1:
        return None
    amounts = np.where(steps == HUE, amounts * np.float32(6), amounts)
    gray_rows, gray_ends = np.nonzero(contrasts)
    blurred_rows = np.flatnonzero(blurs.any(1))
    weights = np.zeros((len(blurred_rows), size // 20 + 1), np.float32)
    if len(blurred_rows):
        found = gaussian_weights(amounts[blurred_rows, column], size // 20)
        weights[:, : found.shape[1]] = found
    return dict(
        steps=steps,
        amounts=amounts,
        gray_rows=gray_rows.astype(np.int32),
        gray_ends=gray_ends.astype(np.int32),
        sharp_rows=np.flatnonzero(~blurs.any(1)).astype(np.int32),
        blurred_rows=blurred_rows.astype(np.int32),
        weights=weights,
        blur=int(column),
    )


def _ends(
    erasing: Erasing | None, mirrored: Bool[np.ndarray, " b"] | None
) -> tuple[Int32[np.ndarray, "rows 6"], Float32[np.ndarray, "erased count"]]:
    """``ends`` and ``noise`` of the tables."""
    boxes = None if erasing is None else erasing.boxes
    columns = [
        np.zeros((0, 4), np.int32) if boxes is None else boxes,
        np.zeros((0, 1), np.int32)
        if boxes is None
        else np.maximum(np.cumsum(boxes[:, 2:].all(1, keepdims=True), 0) - 1, 0),
        np.zeros((0, 1), np.int32) if mirrored is None else mirrored[:, None],
    ]
    count = max(map(len, columns))
    ends = np.concatenate([np.resize(each, (count, each.shape[1])) for each in columns], axis=1).astype(np.int32)
    noise = np.zeros((0, 0), np.float32) if erasing is None else erasing_noise(erasing)
    return (ends if ends.any() else ends[:0]), noise
