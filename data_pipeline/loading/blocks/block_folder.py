"""BlockFolder: blocks as files of one folder, which processes share that know nothing of each other.

    <key>-<block>.block       the block's bytes, the numbers of its rows that are damaged in the store, and their count
    <key>-<block>.block.tmp   one that is being written; who writes it holds its lock (flock)
    blocks.lock               held for the moment in which room is made

A file gets its name when it is whole. Whoever dies before that leaves a .tmp whose lock is free: the next who wants
the block takes it over, and the next start removes the others. Where the file system has no locks, each process writes
a file of its own, and the last one stays: they are the same. Nothing but such files is ever removed.
"""

import errno
import fcntl
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from eyespot.data_pipeline.errors import Outage
from eyespot.data_pipeline.file_locks import lock
from eyespot.data_pipeline.loading.blocks.block_bytes import BytesInFile, CacheDiskError

log = logging.getLogger("eyespot")

Fetch = Callable[[BytesInFile], Collection[int]]
"""Writes a block's bytes; the rows among them that are damaged in the store."""

FINISHED = re.compile(r"[0-9a-f]{24}-[0-9]{9,}\.block")
UNFINISHED = re.compile(r"[0-9a-f]{24}-[0-9]{9,}\.block\.[a-z0-9_]*\.?tmp")
MOST_BAD = 2**20
"""Bytes of a list of damaged rows."""
LOOK_SECONDS = 0.02
"""Between two looks at a block that another process fetches."""
LEFT_SECONDS = 3600.0
"""Without locks, an unfinished file that nobody has written to for so long is nobody's."""


class BlockFolder:
    """The files of one data set's blocks, among those of others, under one budget.

    Args:
        folder: where they lie; made where it is not there.
        key: 24 hexadecimal digits, by which all that read the same files of the same tars find the same blocks.
        budget_bytes: what all blocks of the folder may have together.
        patience_seconds: for how long a block is waited for that another process fetches.

    Raises:
        OSError: there can be no such folder, or it cannot be written to.
    """

    def __init__(self, folder: Path, key: str, budget_bytes: int, patience_seconds: float) -> None:
        self._folder, self._key = folder, key
        self._budget, self._patience_seconds = budget_bytes, patience_seconds
        self._closed, self._complaining, self._complained = threading.Event(), threading.Lock(), False
        self.num_evicted = 0
        folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._sweep()

    def open(self, block: int, size: int) -> BytesInFile | None:
        """A finished block of so many bytes; None = there is none. From now on it is the last to be evicted."""
        try:
            return self._look(block, size)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return None

    def open_or_fetch(self, block: int, size: int, fetch: Fetch) -> BytesInFile | None:
        """A finished block, made by ``fetch`` where no other process makes it.

        Returns:
            None where the disk does not take it, or another process does not finish it for too long.

        Raises:
            Outage: the folder was closed while another process was being waited for.
            Exception: whatever ``fetch`` raises.
        """
        until = time.monotonic() + self._patience_seconds
        while True:
            try:
                if (found := self._look(block, size)) is not None:
                    return found
                claimed = self._claim(block)
            except OSError as error:
                self._complain(error.strerror or str(error))
                return None
            if claimed is not None:
                return self._fill(*claimed, block, size, fetch)
            if time.monotonic() > until:
                return None
            if self._closed.wait(LOOK_SECONDS):
                raise Outage(f"block {block}: no longer wanted")

    def discard(self, block: int, found: BytesInFile) -> None:
        """Takes a finished block away whose bytes have changed on the disk."""
        path = self._path(block)
        with suppress(OSError):
            if _is_at(found.file, path):
                path.unlink()

    def close(self) -> None:
        """Lets go of who waits for other processes."""
        self._closed.set()

    def _look(self, block: int, size: int) -> BytesInFile | None:
        """Raises OSError where there is a file that cannot be read."""
        path = self._path(block)
        try:
            found = BytesInFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
        except FileNotFoundError:
            return None
        if (bad := _bad_rows(found, size)) is None:  # cut by a power failure, say
            path.unlink(missing_ok=True)
            return None
        found.bad = bad
        with suppress(OSError):  # somebody else's file
            os.utime(found.file)
        return found

    def _path(self, block: int) -> Path:
        return self._folder / f"{self._key}-{block:09d}.block"

    def _claim(self, block: int) -> tuple[int, Path] | None:
        """An empty file that this process alone writes, open; None where another one writes it."""
        path = self._path(block)
        temporary = path.with_name(f"{path.name}.tmp")
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            state = lock(file)
            if state == "held" and _is_at(file, temporary) and not path.exists():
                os.ftruncate(file, 0)  # whoever began it is dead
                kept, file = file, -1
                return kept, temporary
            if state == "held" and _is_at(file, temporary):  # finished since we looked: ours is one too many
                temporary.unlink()
        finally:
            if file >= 0:
                os.close(file)
        if state != "unknown":
            return None
        with suppress(FileNotFoundError):
            temporary.unlink()
        file, name = tempfile.mkstemp(".tmp", f"{path.name}.", self._folder)
        return file, Path(name)

    def _fill(self, file: int, temporary: Path, block: int, size: int, fetch: Fetch) -> BytesInFile | None:
        """Fetches a claimed block and gives it its name."""
        filled, kept = BytesInFile(file), False
        try:
            self._reserve(file, size + 8)
            bad = sorted(fetch(filled))
            filled.write(size, np.array([*bad, len(bad)], "<u8").tobytes())
            with _disk_errors():
                temporary.rename(self._path(block))
            kept = True
        except CacheDiskError as error:
            self._complain(str(error))
            return None
        finally:
            if not kept:
                with suppress(OSError):
                    temporary.unlink()
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        filled.bad = frozenset(bad)
        return filled

    def _reserve(self, file: int, size: int) -> None:
        """Makes room under the budget and on the disk before anything is fetched.

        Raises:
            CacheDiskError: there is none.
        """
        with _disk_errors(), self._alone():
            if not self._evict(file, size):
                raise CacheDiskError(f"{self._budget / 1e9:g} GB are too few for the blocks that are fetched at once")
            try:
                _allocate(file, size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._evict(file, size, disk_is_full=True):
                    raise
                _allocate(file, size)

    def _evict(self, file: int, size: int, *, disk_is_full: bool = False) -> bool:
        """Removes blocks that nobody has asked for the longest, until so many bytes fit; none where they cannot."""
        own = os.fstat(file).st_ino
        there = [(entry, found) for entry, found in self._entries() if found.st_ino != own]
        finished = [(found.st_mtime_ns, found.st_size, entry.path) for entry, found in there if _is_finished(entry)]
        room = 0 if disk_is_full else self._budget - sum(found.st_size for _, found in there)
        if room + sum(length for _, length, _ in finished) < size:
            return False
        for _, length, path in sorted(finished):
            if room >= size:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
                self.num_evicted += 1
            room += length
        return True

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """The files of all blocks, finished or not."""
        for entry in os.scandir(self._folder):
            if _is_finished(entry) or UNFINISHED.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    if stat.S_ISREG((found := entry.stat(follow_symlinks=False)).st_mode):
                        yield entry, found

    def _sweep(self) -> None:
        """Removes what the dead left unfinished."""
        for entry, found in self._entries():
            if _is_finished(entry):
                continue
            with suppress(OSError):
                file = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    state = lock(file)
                    left = state == "unknown" and time.time() - found.st_mtime > LEFT_SECONDS
                    if (state == "held" or left) and _is_at(file, Path(entry.path)):
                        os.unlink(entry.path)  # noqa: PTH108
                finally:
                    os.close(file)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process, or thread, makes room meanwhile; where there are no locks, the budget is kept roughly."""
        file = os.open(self._folder / "blocks.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            lock(file, wait=True)
            yield
        finally:
            os.close(file)

    def _complain(self, why: str) -> None:
        """Says once that blocks are not kept on the disk."""
        with self._complaining:
            told, self._complained = self._complained, True
        if not told:
            log.warning("data.cache_dir %s: %s; each process keeps in memory what does not fit", self._folder, why)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """What the disk says, as a CacheDiskError."""
    try:
        yield
    except OSError as error:
        raise CacheDiskError(error.strerror or str(error)) from error


def _is_finished(entry: os.DirEntry[str]) -> bool:
    return FINISHED.fullmatch(entry.name) is not None


def _allocate(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # of a file system that cannot
            raise


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has that name."""
    try:
        named = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _bad_rows(found: BytesInFile, size: int) -> frozenset[int] | None:
    """The damaged rows that a block's file names at its end; None = it is not whole."""
    more = os.fstat(found.file).st_size - size
    if not 8 <= more <= MOST_BAD or more % 8:
        return None
    numbers = np.frombuffer(found.read(size, more), "<u8").tolist()
    return frozenset(numbers[:-1]) if numbers[-1] == len(numbers) - 1 else None
