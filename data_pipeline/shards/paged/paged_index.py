"""An index in pieces: of its rows, those pages are read, checked and kept that somebody asks for.

A window of the sample order takes 8 blocks of 256 rows from anywhere in the index. Whole pieces would be 29 MB to read
and to hash for each of them; a page of 4,096 rows is 115 kB, so every process checks what it reads by itself.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import words
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, Pieces
from eyespot.data_pipeline.shards.paged.npy_header import FEWEST, LARGEST_HEADER, header_bytes, npy_header
from eyespot.data_pipeline.stores.location import Location

PAGES = "index/pages.npy"
DIGEST_BYTES = 32
AT_ONCE = 16
"""Pages that are read at the same time, where more are asked for."""
HELD = 256
"""Pages that are read ahead of who takes them, at most."""
KEPT_MB = 64
"""Pages that were asked for last, in each process, MB (10^6 bytes)."""

WHOLE_SHARE = 0.7
"""Of the free memory, what a whole index may take."""

ReadPart = Callable[[str, int, int], bytes]
"""A file of the folder, first byte and end in; these bytes out, exactly so many. Raises OSError."""
CheckRows = Callable[[str, np.ndarray, int], object]
"""A file, some of its rows, and the sample id of the first; raises UserError where they say what cannot be."""


def piece_file(number: int) -> str:
    """The name of a piece inside the shard folder."""
    return f"index/{number:06d}.npy"


@runtime_checkable
class RowsById(Protocol):
    """Stands where a whole index may stand, for who asks ``table[ids]`` and nothing else."""

    def __len__(self) -> int: ...
    def __getitem__(self, ids: Any, /) -> Any:
        """The rows of some samples, an array of INDEX_DTYPE like the ids; or the row of one id."""
        ...


class PagedIndex:
    """The ``RowsById`` of one shard folder. Threads may share it.

    Args:
        folder: where it lies, for what is said.
        told: how the index is cut.
        digests: (num_pages, 32) sha256 of each page's rows, as they lie in the file.
        read: reads a part of a file.
        check: whether rows say what can be.
        kept_mb: of pages that were asked for last.
    """

    def __init__(
        self,
        folder: Location,
        told: Pieces,
        digests: UInt8[np.ndarray, "pages 32"],
        read: ReadPart,
        check: CheckRows,
        kept_mb: float = KEPT_MB,
    ) -> None:
        self._folder, self._digests, self._read, self._check = folder, digests, read, check
        self._page_rows, self._counts = told.page_rows, np.array(told.samples, np.int64)
        self._first_row = np.concatenate([[0], np.cumsum(self._counts)])
        self._first_page = np.concatenate([[0], np.cumsum(-(-self._counts // told.page_rows))])
        self._most_kept = max(1, int(kept_mb * 1_000_000 / (told.page_rows * INDEX_DTYPE.itemsize)))
        self._forget()

    def _forget(self) -> None:
        self._page = lru_cache(maxsize=self._most_kept)(self._read_page)
        self._rows_begin = lru_cache(maxsize=2**16)(self._read_header)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_page", "_rows_begin")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def __getitem__(self, ids: int | np.integer | Integer[np.ndarray, "..."]) -> Any:
        """The rows of some samples, as NumPy gives them: an array of INDEX_DTYPE like the ids, or the row of one id.

        Raises:
            IndexError: there is no such sample.
            UserError: the rows are damaged, are not what the manifest says, or say what cannot be.
            Outage: the file system does not give them.
        """
        wanted = np.asarray(ids, np.int64)
        flat = wanted.ravel()
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"samples {flat.min()} to {flat.max()} of {len(self)}")
        pages, places = self._places(flat)
        if wanted.ndim == 0:
            return self._page(int(pages[0]))[places[0]]
        found, order = np.empty(len(flat), INDEX_DTYPE), np.argsort(pages, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(pages[order])) + 1) if len(flat) else []
        for some, page in zip(groups, self._all_of([int(pages[some[0]]) for some in groups]), strict=True):
            found[some] = page[places[some]]
        return found.reshape(wanted.shape)

    def whole(self) -> np.ndarray:
        """All rows at once, read-only.

        Raises:
            UserError: they take more than ``WHOLE_SHARE`` of the memory that is free; or as for some of them.
        """
        needed, free = len(self) * INDEX_DTYPE.itemsize, free_memory()
        if needed > WHOLE_SHARE * free:
            raise UserError(
                f"shards {self._folder}: this asks for the index of all {len(self):,} samples at once, which takes"
                f" {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; ask it of a smaller shard folder"
            )
        rows, begin = np.empty(len(self), INDEX_DTYPE), 0
        for part in self.parts():
            rows[begin : begin + len(part)] = part
            begin += len(part)
        rows.setflags(write=False)
        return rows

    def parts(self) -> Iterator[np.ndarray]:
        """All rows, a page after the other: for who adds something up."""
        for page in range(len(self._digests)):
            yield self._read_page(page)

    def piece_sizes(self) -> Iterator[tuple[str, int, int]]:
        """Of each piece its file, and the fewest and the most bytes that it may have."""
        for number, count in enumerate(self._counts.tolist()):
            size = count * INDEX_DTYPE.itemsize
            yield piece_file(number), size, size + LARGEST_HEADER

    def _places(self, ids: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The page of each sample, and the row inside it."""
        piece = np.searchsorted(self._first_row, ids, side="right") - 1
        page, place = np.divmod(ids - self._first_row[piece], self._page_rows)
        return self._first_page[piece] + page, place

    def _all_of(self, pages: list[int]) -> Iterator[np.ndarray]:
        """Some pages: what a window needs one after the other, of more many at once."""
        if len(pages) <= AT_ONCE:
            yield from map(self._page, pages)
            return
        with ThreadPoolExecutor(AT_ONCE, "eyespot-pages") as pool:
            for begin in range(0, len(pages), HELD):  # else all of them could wait for who takes them
                yield from pool.map(self._page, pages[begin : begin + HELD])

    def _read_page(self, page: int) -> np.ndarray:
        piece = int(np.searchsorted(self._first_page, page, side="right")) - 1
        name, begin = piece_file(piece), (page - int(self._first_page[piece])) * self._page_rows
        count, size = min(self._page_rows, int(self._counts[piece]) - begin), INDEX_DTYPE.itemsize
        first = self._rows_begin(piece) + begin * size
        try:
            content = self._read(name, first, first + count * size)
        except OSError as error:
            raise self._wrong(name, f"unreadable ({words(error)})") from error
        if hashlib.sha256(content).digest() != self._digests[page].tobytes():
            raise self._wrong(name, "changed since it was written (sha256 of a page is not that of index/pages.npy)")
        rows = np.frombuffer(content, INDEX_DTYPE)
        self._check(name, rows, int(self._first_row[piece]) + begin)
        return rows

    def _read_header(self, piece: int) -> int:
        """Where the rows of a piece begin."""
        name, count = piece_file(piece), int(self._counts[piece])
        try:
            size = header_bytes(self._read(name, 0, FEWEST))
            shape, found, begin = npy_header(self._read(name, 0, size))
        except (OSError, ValueError) as error:
            raise self._wrong(name, f"unreadable ({words(error) if isinstance(error, OSError) else error})") from error
        if found != INDEX_DTYPE or shape != (count,):
            raise self._wrong(name, f"{shape} rows of {found} where the manifest says {count} samples")
        return begin

    def _wrong(self, name: str, what: str) -> UserError:
        again = f"copy it again, or make it anew: eyespot shards index {self._folder}"
        return UserError(f"{self._folder / name}: {what}; {again}")


def free_memory() -> int:
    """Bytes that this machine could give to a process."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
