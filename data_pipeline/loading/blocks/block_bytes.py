"""Where the bytes of a block are held: a file that all ranks of a node read, or the memory of one."""

import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class BlockBytes(Protocol):
    """Bytes that many threads may read at once."""

    def write(self, place: int, data: bytes | memoryview) -> None:
        """Raises CacheDiskError where the disk does not take it."""
        ...

    def checksums(self, places: Sequence[int], sizes: Sequence[int]) -> Iterator[int]:
        """The crc32 of each file; raises OSError where the disk does not give it."""
        ...

    def read(self, place: int, size: int, flags: int = 0) -> bytearray:
        """So many bytes.

        Args:
            place: of the first.
            size: how many.
            flags: of ``preadv``; RWF_NOWAIT = what the system has in memory, or BlockingIOError.

        Raises:
            OSError: they are not there, or the disk does not give them.
        """
        ...


class CacheDiskError(Exception):
    """The disk of the cache is full or broken: no reason to stop, for what it has can be fetched again."""


class CheckedBytes(bytearray):
    """Bytes in this process's memory that were compared with their checksum."""


class BytesInMemory:
    """For one process, and as long as it needs them."""

    def __init__(self, size: int) -> None:
        self._data = bytearray(size)

    def write(self, place: int, data: bytes | memoryview) -> None:
        """Copies it."""
        memoryview(self._data)[place : place + len(data)] = data

    def checksums(self, places: Sequence[int], sizes: Sequence[int]) -> Iterator[int]:
        """Of the bytes where they are."""
        return (zlib.crc32(self.view(*each)) for each in zip(places, sizes, strict=True))

    def view(self, place: int, size: int) -> memoryview:
        """The bytes where they are."""
        return memoryview(self._data)[place : place + size]

    def read(self, place: int, size: int, flags: int = 0) -> bytearray:
        """A copy."""
        return self._data[place : place + size]


class BytesInFile:
    """Of an open file, which closes when the last thread lets go of it, so that eviction pulls it from under none."""

    def __init__(self, file: int, bad: Sequence[int] = ()) -> None:
        self.file = file
        self.bad = frozenset(bad)
        """Rows whose bytes are not what was packed in the store either."""

    def __del__(self) -> None:
        os.close(self.file)

    def write(self, place: int, data: bytes | memoryview) -> None:
        """Into the system's memory: what a power cut takes is found by its checksum."""
        try:
            if (num_written := os.pwrite(self.file, data, place)) != len(data):
                raise CacheDiskError(f"it took {num_written} of {len(data)} bytes")
        except OSError as error:
            raise CacheDiskError(error.strerror) from error

    def checksums(self, places: Sequence[int], sizes: Sequence[int]) -> Iterator[int]:
        """Of what the system has of it, read into one and the same memory."""
        room = memoryview(bytearray(max(sizes, default=0)))
        for place, size in zip(places, sizes, strict=True):
            self._read_into(room[:size], place)
            yield zlib.crc32(room[:size])

    def read(self, place: int, size: int, flags: int = 0) -> bytearray:
        """By ``preadv``."""
        self._read_into(data := bytearray(size), place, flags)
        return data

    def _read_into(self, data: bytearray | memoryview, place: int, flags: int = 0) -> None:
        if (num_read := os.preadv(self.file, [data], place, flags)) != len(data):
            raise OSError(f"the block's file ends after {num_read} of {len(data)} bytes")
