"""Columns of a million files in little memory: what neighbours share is kept once.

Numbers take the bytes that they differ by within a block, which are none where all are the same; names are deflated
some at a time. Both grow by ``append``, and are read in any order, cheapest one after another.
"""

import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

BLOCK = 4096
"""Numbers of a block."""
TOGETHER = 64
"""Names that are deflated together: what it costs to read one anywhere."""
_LENGTHS = struct.Struct(f"<{TOGETHER}I")


class Numbers(Sequence[int]):
    """Whole numbers of 64 bits."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, np.ndarray | None]] = []  # the least, and by how much others are more
        self._last = array("q")

    @classmethod
    def of(cls, values: Iterable[int]) -> "Numbers":
        """All of them."""
        numbers = cls()
        for value in values:
            numbers.append(value)
        return numbers

    def append(self, value: int) -> None:
        """One more."""
        self._last.append(value)
        if len(self._last) == BLOCK:
            self._close()

    def extend(self, values: np.ndarray) -> None:
        """(n,) more."""
        while len(values):
            fits = BLOCK - len(self._last)
            self._last.frombytes(values[:fits].astype(np.int64).tobytes())
            if len(self._last) == BLOCK:
                self._close()
            values = values[fits:]

    def blocks(self) -> Iterator[np.ndarray]:
        """All of them, some (n,) int64 at a time."""
        for least, more in self._blocks:
            if more is None:
                yield np.full(BLOCK, least, np.int64)
            else:  # modulo 2^64, as the difference was taken
                yield more.astype(np.uint64).view(np.int64) + np.int64(least)
        yield np.array(self._last, np.int64)

    def __len__(self) -> int:
        return len(self._blocks) * BLOCK + len(self._last)

    @overload
    def __getitem__(self, row: int) -> int: ...
    @overload
    def __getitem__(self, row: slice) -> list[int]: ...
    def __getitem__(self, row: int | slice) -> int | list[int]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        block, place = divmod(row, BLOCK)
        if block >= len(self._blocks) or row < 0:
            return self._last[place] if block == len(self._blocks) else _beyond(row)
        least, more = self._blocks[block]
        return least if more is None else least + int(more[place])

    def _close(self) -> None:
        values = np.array(self._last, np.int64)
        least = int(values.min())
        more = (values - least).view(np.uint64)  # also where the difference has 64 bits
        self._blocks.append((least, more.astype(np.min_scalar_type(more.max())) if more.any() else None))
        self._last = array("q")


class Names(Sequence[bytes]):
    """Strings of bytes that look like those before them."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._last: list[bytes] = []
        self._opened: tuple[int, list[bytes]] = (-1, [])

    def append(self, name: bytes) -> None:
        """One more."""
        self._last.append(name)
        if len(self._last) == TOGETHER:
            self._packed.append(zlib.compress(_LENGTHS.pack(*map(len, self._last)) + b"".join(self._last), 1))
            self._last = []

    def __len__(self) -> int:
        return len(self._packed) * TOGETHER + len(self._last)

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> list[bytes]: ...
    def __getitem__(self, row: int | slice) -> bytes | list[bytes]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        block, place = divmod(row, TOGETHER)
        if block >= len(self._packed) or row < 0:
            return self._last[place] if block == len(self._packed) else _beyond(row)
        if self._opened[0] != block:
            self._opened = block, _unpacked(self._packed[block])
        return self._opened[1][place]


class Texts(Sequence[str | None]):
    """Texts of which there are few, or None: a number for each, and each of them once."""

    def __init__(self) -> None:
        self.known: dict[str | None, int] = {}
        """The number of each, from 0 on."""
        self.numbers = Numbers()
        self._listed: list[str | None] = []

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "Texts":
        """All of them."""
        found = cls()
        for text in texts:
            found.append(text)
        return found

    def append(self, text: str | None) -> None:
        """One more."""
        self.numbers.append(self._number(text))

    def join(self, other: "Texts") -> None:
        """All of another column."""
        numbers = np.array([self._number(text) for text in other.known], np.int64)
        for block in other.numbers.blocks():
            self.numbers.extend(numbers[block] if len(block) else block)

    def _number(self, text: str | None) -> int:
        if (number := self.known.get(text)) is None:
            number = self.known[text] = len(self.known)
            self._listed.append(text)
        return number

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, row: int) -> str | None: ...
    @overload
    def __getitem__(self, row: slice) -> list[str | None]: ...
    def __getitem__(self, row: int | slice) -> str | list[str | None] | None:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        return self._listed[self.numbers[row]]


def alike(numbers: Iterable[int]) -> Iterator[list[int]]:
    """The rows of the same number, ascending, group by group, in the order of their first rows.

    Args:
        numbers: of each row, 64 bits with a sign; hashes, for instance.
    """
    values = np.fromiter(numbers, np.int64)
    order = np.argsort(values, kind="stable").astype(np.uint32 if len(values) < 2**32 else np.int64)
    values = values[order]
    bounds = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]])) if len(values) else values
    del values
    for group in np.argsort(order[bounds[:-1]]):
        yield order[bounds[group] : bounds[group + 1]].tolist()


def _unpacked(block: bytes) -> list[bytes]:
    content, end = zlib.decompress(block), _LENGTHS.size
    names: list[bytes] = []
    for length in _LENGTHS.unpack_from(content):
        names.append(content[end : end + length])
        end += length
    return names


def _beyond(row: int) -> Any:
    raise IndexError(row)
