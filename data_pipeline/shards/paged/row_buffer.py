"""Rows of a table that grows by one at a time: as an array, whose rows take a tenth of the memory of tuples."""

import numpy as np

PORTION = 2**12
"""Tuples that are held at once."""


class RowBuffer:
    """Takes one row after another.

    Args:
        dtype: of the rows.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._arrays: list[np.ndarray] = []
        self._tuples: list[tuple[int, ...]] = []

    def add(self, row: tuple[int, ...]) -> None:
        """One more."""
        self._tuples.append(row)
        if len(self._tuples) == PORTION:
            self._flush()

    def table(self) -> np.ndarray:
        """(n,) all of them in order."""
        self._flush()
        return self._arrays[0] if len(self._arrays) == 1 else np.concatenate(self._arrays)

    def _flush(self) -> None:
        self._arrays.append(np.array(self._tuples, self._dtype))
        self._tuples = []
