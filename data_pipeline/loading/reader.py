"""Reads the image files of samples out of the tars, checks them, and stands in for those that are damaged.

Plain reads, never ``mmap``: a tar that is cut short while mapped kills the process with SIGBUS.
"""

import logging
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

log = logging.getLogger("eyespot")

NUM_THREADS = 16
"""Reads in flight: disks and network file systems answer many at once far faster than one after another."""
NUM_OPEN_TARS = 64
MAX_PIXELS = 2**28
"""A larger image is an attack or a mistake, and would exhaust the memory when decoded."""

File = bytearray
Row = tuple[int, ...]
"""Of the index."""


class _OpenTar:
    """A file descriptor that closes when the last thread lets go of it, so eviction cannot pull it from under one."""

    def __init__(self, path: Path):
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class Reader:
    """Sample ids in, the bytes of their image files out, a few batches ahead of the need."""

    def __init__(self, shards: ShardFolder, *, substitute: bool, index: np.ndarray | None = None):
        """Makes sure that every tar has the size that the manifest says.

        Args:
            shards: where to read.
            substitute: replace damaged samples by others; otherwise they are errors.
            index: what to read of each sample; None = its image, as the shards' index says.

        Raises:
            UserError: a tar is missing or has another size, or there is no sound index.
        """
        shards.check_tars()
        self.index = shards.index if index is None else index
        self.shards = shards
        self._substitute = substitute
        self._undecodable: set[int] = set()
        self._open = lru_cache(maxsize=NUM_OPEN_TARS)(lambda tar: _OpenTar(shards.tar_path(tar)))
        self._pool = ThreadPoolExecutor(NUM_THREADS, "eyespot-read")

    def start(self, ids: Int64[np.ndarray, " b"]) -> "Reading":
        """Takes what the system has in memory at once, and begins to read the rest in the background."""
        files = list(map(self._read_from_memory, ids.tolist(), self.index[ids].tolist()))
        places = np.array([place for place, file in enumerate(files) if file is None], np.int64)
        parts = np.array_split(places, min(NUM_THREADS, len(places))) if len(places) else []
        late = [(part.tolist(), self._pool.submit(self._read_all, ids[part].tolist())) for part in parts]
        return Reading(ids, files, late)

    def reject(self, sample: int, reason: str) -> None:
        """Remembers that a sample's bytes are as packed but cannot be decoded.

        Raises:
            UserError: damaged samples are errors here.
        """
        self._undecodable.add(sample)
        self._complain(sample, reason)

    @property
    def num_rejected(self) -> int:
        """How many samples were rejected."""
        return len(self._undecodable)

    def describe(self, sample: int) -> str:
        """Names a sample for people: its id, tar and place."""
        row = self.index[sample]
        return f"sample {sample} ({self.shards.tar_path(int(row['tar']))}, offset {row['offset']})"

    def close(self) -> None:
        """Ends the threads and closes the tars."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._open.cache_clear()

    def _read_from_memory(self, sample: int, row: Row) -> File | None:
        """The sample, if no disk has to be waited for and nothing is wrong with it.

        Handing a small file to a thread costs several times what reading it from the page cache costs.
        """
        if sample in self._undecodable:
            return None
        try:
            return self._read(row, os.RWF_NOWAIT)
        except (OSError, ValueError):
            return None

    def _read_all(self, ids: Sequence[int]) -> list[tuple[int, File]]:
        return [self._read_or_substitute(sample) for sample in ids]

    def _read_or_substitute(self, wanted: int) -> tuple[int, File]:
        """The sample, or the first good one at distance 1, 2, 4, ... behind it: near, then beyond a lost tar."""
        num_samples = len(self.index)
        for sample in [wanted] + [(wanted + 2**k) % num_samples for k in range(num_samples.bit_length())]:
            if sample in self._undecodable:
                continue
            try:
                return sample, self._read(self.index[sample].item())
            except (OSError, ValueError) as error:
                self._complain(sample, str(error))
        raise UserError(f"shards {self.shards.path}: no readable sample near {wanted}; run: eyespot shards verify")

    def _read(self, row: Row, flags: int = 0) -> File:
        tar, offset, size, crc32, height, width, _ = row
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"an image of {width} x {height} pixels")
        opened = self._open(tar)  # held until the read is over
        data = bytearray(size)
        if (num_read := os.preadv(opened.fd, [data], offset, flags)) != size:
            raise ValueError(f"the tar ends after {num_read} of the image's {size} bytes")
        if zlib.crc32(data) != crc32:
            raise ValueError("its bytes changed since they were packed (crc32)")
        return data

    def _complain(self, sample: int, reason: str) -> None:
        message = f"{self.describe(sample)} is damaged: {reason}"
        if not self._substitute:
            raise UserError(f"{message}; find all damage with: eyespot shards verify {self.shards.path}")
        log.warning("%s; another sample takes its place", message)


class Reading:
    """Samples that are being read."""

    def __init__(
        self,
        ids: Int64[np.ndarray, " b"],
        files: list[File | None],
        late: list[tuple[list[int], Future[list[tuple[int, File]]]]],
    ):
        """Gathers them.

        Args:
            ids: what was asked for.
            files: those that are there already.
            late: places of those that are still being read, and what will come.
        """
        self._ids, self._files, self._late = ids, files, late

    def result(self) -> tuple[Int64[np.ndarray, " b"], list[File]]:
        """Waits for them: the ids of what was read, in the order asked for, and the files.

        Raises:
            UserError: samples are damaged, and none may or can take their place.
        """
        ids, files = self._ids.copy(), self._files
        for places, samples in self._late:
            for place, (sample, file) in zip(places, samples.result(), strict=True):
                ids[place], files[place] = sample, file
        return ids, cast(list[File], files)
