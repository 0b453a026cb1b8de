"""What the kernels of ``view_kernels.py`` are told of a batch: which steps each view goes through, and who is blurred.

Plain numbers, made on the CPU; Triton is not needed for them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from eyespot.data_pipeline.augment.color import brightness, contrast, gaussian_weights, hue, saturation, solarize
from eyespot.data_pipeline.augment.pipeline import BLUR, NOTHING, OPERATIONS, Alteration

POINTWISE = (brightness, contrast, saturation, hue, solarize)
"""What the kernels can do to a pixel; beside them they blur, once."""
CONTRAST, HUE = OPERATIONS.index(contrast), OPERATIONS.index(hue)
_KNOWN = [NOTHING, BLUR, *map(OPERATIONS.index, POINTWISE)]
MAX_SIZE = 2048
"""Pixels: the sum of a larger view's gray levels may not fit into 32 bits, nor its rows into a program."""


@dataclass(kw_only=True, slots=True)
class ViewTables:
    """Steps of one view of each image of a batch."""

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

    @property
    def kernels(self) -> tuple[bool, bool, bool, int]:
        """Which kernels these views need: gray levels, sharp views, blurred ones; and after how many steps the blur."""
        return len(self.gray_rows) > 0, len(self.sharp_rows) > 0, len(self.blurred_rows) > 0, self.blur

    @property
    def arrays(self) -> list[np.ndarray]:
        """What the kernels read; the third are zeros that they add gray levels to."""
        totals = np.zeros(len(self.steps), np.int32)
        radii = (np.cumsum(self.weights[:, ::-1] != 0, axis=1) > 0).sum(1, dtype=np.int32) - np.int32(1)
        before = [self.steps, self.amounts, totals, self.gray_rows, self.gray_ends]
        return [*before, self.sharp_rows, self.blurred_rows, radii.astype(np.int32), self.weights]


def view_tables(alteration: Alteration | None, count: int, size: int) -> ViewTables | None:
    """The tables of so many views of this size; None where the kernels cannot do what is asked.

    They know no RandAugment and erase nothing; contrast may change once in a view, before it is blurred.
    """
    if size > MAX_SIZE or (alteration is not None and alteration.erasing is not None):
        return None
    steps = np.zeros((count, 0), np.int32) if alteration is None else alteration.steps.astype(np.int32)
    amounts = np.zeros((count, 0), np.float32) if alteration is None else alteration.amounts.copy()
    blurs, contrasts = steps == BLUR, steps == CONTRAST
    columns = np.flatnonzero(blurs.any(0))
    column = columns[0] if len(columns) else steps.shape[1]
    if not np.isin(steps, _KNOWN).all() or len(columns) > 1:
        return None
    if contrasts[:, column:].any() or contrasts.sum(1).max(initial=0) > 1:
        return None
    amounts[steps == HUE] *= 6
    gray_rows, gray_ends = np.nonzero(contrasts)
    blurred_rows = np.flatnonzero(blurs.any(1))
    weights = np.zeros((len(blurred_rows), size // 20 + 1), np.float32)
    if len(blurred_rows):
        found = gaussian_weights(amounts[blurred_rows, column], size // 20)
        weights[:, : found.shape[1]] = found
    return ViewTables(
        steps=steps,
        amounts=amounts,
        gray_rows=gray_rows.astype(np.int32),
        gray_ends=gray_ends.astype(np.int32),
        sharp_rows=np.flatnonzero(~blurs.any(1)).astype(np.int32),
        blurred_rows=blurred_rows.astype(np.int32),
        weights=weights,
        blur=int(column),
    )
