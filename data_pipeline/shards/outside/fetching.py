"""Brings the images of compressed tables to where they can be read in any order: some at a time, in the order needed.

Listing a table reads it once and writes no image. Images that do not lie in it as plain bytes, as in most Parquet, are
named by their rows. While packing, those of the next stretch of the shuffled order are written one behind another into
the spool folder, and are deleted once they are packed: so a source is never there twice, and of many tasks each writes
its own share only.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Inside
from eyespot.data_pipeline.shards.members.items import Item, Items, are_plain
from eyespot.data_pipeline.shards.outside.apart import Lost, each
from eyespot.data_pipeline.terminal import one_line

T = TypeVar("T")
STRETCH_BYTES = 4 * 2**30
"""Of images that are fetched at once, at least."""
STRETCHES = 8
"""A table is read at most so many times: images are fetched in no more stretches."""


class Rows(Inside):
    """The path of a table of which images are rows; their offsets are the rows' numbers."""

    column: str
    """That holds them."""

    @classmethod
    def of(cls, path: str, column: str) -> "Rows":
        """The rows of a table."""
        rows = cls(path)
        rows.column = column
        return rows


class Wanted(NamedTuple):
    """Images of one table that are to be fetched."""

    path: str
    column: str
    rows: np.ndarray
    """(n,) int64, ascending."""
    sizes: np.ndarray
    """(n,) int64, bytes of each."""
    spool: str
    """The file that they are written to, one behind another."""


Fetch = Callable[[Wanted, Callable[[], None]], str]
"""Writes images; returns why that cannot be done, or nothing."""


class Fetched(Items):
    """Items of which the bytes are fetched when a slice of them is asked for, slices in their order.

    Args:
        items: in the order of packing; asked for one by one, they come as they are.
        spool: a folder.
        fetch: reads a table; runs in a process of its own.
    """

    def __init__(self, items: Sequence[Item], spool: Path, fetch: Fetch) -> None:
        self._items, self._spool, self._fetch = items, spool, fetch
        self._stretch, self._places = range(0), (array("i"), array("q"))
        self._files: list[str] = []
        self._written: list[tuple[int, list[Path]]] = []

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> list[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | list[Item]:
        if not isinstance(row, slice):
            return self._items[row]
        found: list[Item] = []
        for position, item in zip(range(*row.indices(len(self))), self._items[row], strict=True):
            if position not in self._stretch:
                self._next_stretch(position)
            file, offset = (column[position - self._stretch.start] for column in self._places)
            found.append(item if file < 0 else item._replace(path=self._files[file], offset=offset))
        return found

    def taken(self, rows: np.ndarray) -> Items:
        """They are in the order of packing already."""
        raise NotImplementedError

    def with_labels(self, labels: np.ndarray) -> Items:
        """They have those that are packed."""
        raise NotImplementedError

    @property
    def labels(self) -> np.ndarray:
        """(n,) of the items."""
        return np.array([item.label for item in self._items], np.int32)

    @property
    def is_plain(self) -> bool:
        """Whether each is one image without a mask."""
        return are_plain(self._items)

    def watched(self, results: Iterator[T]) -> Iterator[T]:
        """What comes of the items, one after another; deletes the bytes of those that are done."""
        for position, result in enumerate(results):
            while self._written and self._written[0][0] <= position:
                for path in self._written.pop(0)[1]:
                    path.unlink(missing_ok=True)
            yield result

    def _next_stretch(self, first: int) -> None:
        """Fetches those from ``first`` on."""
        numbers, rows, sizes = array("i"), array("q"), array("q")
        tables, total, position = dict[Rows, int](), 0, first
        least = -(-len(self) // STRETCHES)
        while position < len(self) and (total < STRETCH_BYTES or position - first < least):
            item = self._items[position]
            in_table = isinstance(item.path, Rows)
            numbers.append(tables.setdefault(item.path, len(tables)) if isinstance(item.path, Rows) else -1)
            rows.append(item.offset)
            sizes.append(item.size if in_table else 0)
            total, position = total + sizes[-1], position + 1
        offsets = np.zeros(len(rows), np.int64)
        of, row, size = (np.array(column) for column in (numbers, rows, sizes))
        order = np.lexsort((row, of))
        ends = np.searchsorted(of[order], np.arange(len(tables) + 1))
        jobs: list[Wanted] = []
        for table, number in tables.items():
            own = order[ends[number] : ends[number + 1]]
            offsets[own] = np.cumsum(size[own]) - size[own]
            spool = self._spool / f"rows-{first:012d}-{number:06d}.raw"
            jobs.append(Wanted(str(table), table.column, row[own], size[own], str(spool)))
        self._files = [job.spool for job in jobs]
        self._written.append((position, [Path(path) for path in self._files]))
        for job, problem in each(jobs, self._fetch, 1, who=("its reader", "row")):
            if problem:
                told = str(problem) if isinstance(problem, Lost) else problem
                raise UserError(f"source {job.path}: {one_line(told)}")
        self._stretch, self._places = range(first, position), (numbers, array("q", offsets.tolist()))


def in_reach(items: Sequence[Item], spool: Path, fetch: Fetch | None) -> Sequence[Item]:
    """Items whose bytes can be read, as soon as a slice of them is asked for.

    Args:
        items: in the order of packing.
        spool: a folder.
        fetch: of their source; None = they lie where their places say.
    """
    return items if fetch is None else Fetched(items, spool, fetch)


def done_with(items: Sequence[Item], results: Iterator[T]) -> Iterator[T]:
    """What comes of the items, one after another; bytes that were fetched are deleted once they are done."""
    return items.watched(results) if isinstance(items, Fetched) else results
