"""MixedTable: the rows of a mixture's samples, each asked of its source; for sources whose index is in pieces."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

Ids = Int64[np.ndarray, " _"]


class MixedTable:
    """The rows that the whole index of a mixture has, none of which it holds.

    Args:
        sources: the folder of each.
        bounds: the first sample of each, and how many all have.
        first_tar: what the mixture calls the first tar of each.
        first_label: the first label of each.
    """

    def __init__(
        self, sources: Sequence[ShardFolder], bounds: Ids, first_tar: Sequence[int], first_label: Sequence[int]
    ) -> None:
        self._sources, self._bounds = tuple(sources), bounds
        self._first_tar, self._first_label = first_tar, first_label

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, ids: int | np.integer | Integer[np.ndarray, "..."]) -> Any:
        """As ``PagedIndex`` gives them, with errors of the sources.

        Raises:
            IndexError: there is no such sample.
        """
        wanted = np.asarray(ids, np.int64)
        flat = wanted.ravel()
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"samples {flat.min()} to {flat.max()} of {len(self)}")
        found, whose = np.empty(len(flat), INDEX_DTYPE), np.searchsorted(self._bounds, flat, side="right") - 1
        for number in np.unique(whose).tolist():
            (places,) = np.nonzero(whose == number)
            found[places] = self.apart(number, self._sources[number].rows(flat[places] - self._bounds[number]))
        return found[0] if wanted.ndim == 0 else found.reshape(wanted.shape)

    def parts(self) -> Iterator[np.ndarray]:
        """All rows, some at a time."""
        for number, source in enumerate(self._sources):
            for rows in source.row_parts():
                yield self.apart(number, rows)

    def apart(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a source, with its tars and labels behind those of the sources before."""
        own = rows.copy()
        own["tar"] += np.uint32(self._first_tar[number])
        own["label"] += np.int32(self._first_label[number]) * (own["label"] >= 0)
        return own
