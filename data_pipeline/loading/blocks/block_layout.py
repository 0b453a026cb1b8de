"""Which files lie together: 256 neighbouring rows of a table are a block, a few long ranges of the tars.

A store answers one long request far more cheaply than many short ones, so what is asked for is the block, with all that
lies between its files. Only gaps longer than what a request costs are left out: of tars with sounds beside their images
a run that shows no sounds does not fetch them.
"""

import bisect
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.order.sample_order import BLOCK

REQUEST_BYTES = 2**20
"""A request costs about what so many bytes more in one cost: 10 to 50 ms until an object store answers, at 20 to 100 MB
a second."""
PART_BYTES = 16 * 2**20
"""Of one request at most: longer ranges are cut into equal parts, which come side by side."""


class Span(NamedTuple):
    """Bytes of one tar."""

    tar: int
    begin: int
    end: int


def spans(rows: np.ndarray) -> tuple[list[Span], Int64[np.ndarray, " n"]]:
    """The ranges in which files lie, each as long as it has no gap worth a request of its own.

    Args:
        rows: (n,) with the columns tar, offset, size.

    Returns:
        The ranges, by tar and place; and where each file begins in the bytes of all of them behind each other (-1 = the
        row has no file).
    """
    places, found = np.full(len(rows), -1, np.int64), list[Span]()
    tars, begins = rows["tar"].astype(np.int64), rows["offset"].astype(np.int64)
    ends = begins + rows["size"].astype(np.int64)
    before, tar, begin, end = 0, -1, 0, 0
    """Bytes of the ranges before the present one, and that one."""
    for row in np.lexsort((begins, tars)).tolist():
        if begins[row] == ends[row]:
            continue
        if tar != tars[row] or begins[row] > end + REQUEST_BYTES:
            if tar >= 0:
                found.append(Span(tar, begin, end))
            before += end - begin
            tar, begin, end = int(tars[row]), int(begins[row]), int(ends[row])
        end = max(end, int(ends[row]))
        places[row] = before + int(begins[row]) - begin
    return ([*found, Span(tar, begin, end)] if tar >= 0 else found), places


def parts(found: Sequence[Span]) -> list[Span]:
    """The ranges, cut into requests."""
    cut: list[Span] = []
    for tar, begin, end in found:
        count = max(1, -(-(end - begin) // PART_BYTES))
        edges = [begin + (end - begin) * number // count for number in range(count + 1)]
        cut += [Span(tar, *edge) for edge in itertools.pairwise(edges)]
    return cut


class Block(NamedTuple):
    """Rows whose files are fetched together."""

    numbers: Int64[np.ndarray, " n"]
    """Of the rows, in the table."""
    rows: np.ndarray
    """(n,) of INDEX_DTYPE."""
    spans: list[Span]
    places: Int64[np.ndarray, " n"]
    """Where each file begins among the block's bytes; -1 = there is none."""

    @property
    def size(self) -> int:
        """Bytes of all its ranges."""
        return sum(end - begin for _, begin, end in self.spans)

    def place(self, tar: int, offset: int) -> int:
        """Where a byte of a tar, which lies in one of the ranges, stands among the block's."""
        before = 0
        for span in self.spans:
            if span.tar == tar and span.begin <= offset < span.end:
                return before + offset - span.begin
            before += span.end - span.begin
        raise ValueError(f"byte {offset} of tar {tar} is not in the block")

    @property
    def enough(self) -> float:
        """So many of its files cost as much, each by a request of its own, as the whole block."""
        sizes = self.rows["size"][self.rows["size"] > 0]
        if not len(sizes):
            return 1.0
        whole = self.size + REQUEST_BYTES * len(parts(self.spans))
        return whole / (float(sizes.mean()) + REQUEST_BYTES)


class BlockLayout:
    """The blocks of a table of files.

    Args:
        table: (n,) of INDEX_DTYPE, or tables behind each other; asked for the rows of some numbers alone.
        lengths: of these; those as long as another have rows of the same samples, or frames, and share blocks.
        chosen: the samples that are seen, in the order that blocks of neighbours are made of; None = all there are.
        num_samples: of the data set: the length of tables whose rows are samples.
    """

    def __init__(
        self,
        table: Any,
        lengths: Sequence[int],
        chosen: Int64[np.ndarray, " n"] | None = None,
        num_samples: int | None = None,
    ) -> None:
        self._table, self._chosen, self._num_samples = table, chosen, num_samples
        self._firsts = np.cumsum([0, *lengths]).tolist()
        self._tables: dict[int, list[int]] = {}
        """By length, the first rows of the tables that have it."""
        for length, first in zip(lengths, self._firsts, strict=False):
            self._tables.setdefault(length, []).append(first)
        self._lengths = list(self._tables)
        counts = [-(-self._places(length) // BLOCK) for length in self._lengths]
        self._first_blocks = np.cumsum([0, *counts]).tolist()
        self._plain = len(lengths) == 1 and chosen is None
        self.num_blocks: int = self._first_blocks[-1]

    def _places(self, length: int) -> int:
        return length if self._chosen is None or not self._is_chosen(length) else len(self._chosen)

    def _is_chosen(self, length: int) -> bool:
        return self._chosen is not None and length == self._num_samples

    @cached_property
    def _place_of(self) -> tuple[np.ndarray, np.ndarray]:
        """The chosen samples ascending, and where each stands among them as they were given."""
        assert self._chosen is not None
        order = np.argsort(self._chosen, kind="stable")
        return self._chosen[order], order

    def block_of(self, number: int) -> int:
        """The block of a row; -1 = of none, for its sample is not chosen."""
        if self._plain:
            return number // BLOCK
        table = bisect.bisect_right(self._firsts, number) - 1
        length = self._firsts[table + 1] - self._firsts[table]
        place = number - self._firsts[table]
        if self._is_chosen(length):
            ascending, order = self._place_of
            found = int(np.searchsorted(ascending, place))
            if found == len(ascending) or ascending[found] != place:
                return -1
            place = int(order[found])
        return self._first_blocks[self._lengths.index(length)] + place // BLOCK

    def blocks_of(self, numbers: Int64[np.ndarray, " n"]) -> dict[int, int]:
        """The blocks in which rows lie, in that order, and how many of the rows each has."""
        plain = self._plain
        blocks = (numbers // BLOCK).tolist() if plain else [self.block_of(number) for number in numbers.tolist()]
        counts: dict[int, int] = {}
        for block in blocks:
            if block >= 0:
                counts[block] = counts.get(block, 0) + 1
        return counts

    def block(self, number: int) -> Block:
        """What a block consists of."""
        group = bisect.bisect_right(self._first_blocks, number) - 1
        length, first = self._lengths[group], (number - self._first_blocks[group]) * BLOCK
        places = np.arange(first, min(first + BLOCK, self._places(length)), dtype=np.int64)
        if self._is_chosen(length):
            assert self._chosen is not None
            places = self._chosen[places]
        numbers = np.concatenate([begin + places for begin in self._tables[length]])
        rows = self._table[numbers]
        return Block(numbers, rows, *spans(rows))
