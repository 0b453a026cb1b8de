"""Reads the image files of samples out of the tars, checks them, and stands in for those that are damaged.

Plain ``pread``, never ``mmap``: a tar that is cut short while mapped kills the process with SIGBUS.
"""

import logging
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.manifest import Manifest

log = logging.getLogger("eyespot")

NUM_THREADS = 16
"""Reads in flight: disks and network file systems answer many at once far faster than one after another."""
NUM_OPEN_TARS = 64
MAX_PIXELS = 2**28
"""A larger image is an attack or a mistake, and would exhaust the memory when decoded."""

File = UInt8[np.ndarray, " _"]


class _OpenTar:
    """A file descriptor that closes when the last thread lets go of it, so eviction cannot pull it from under one."""

    def __init__(self, path: Path):
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class Reader:
    """Sample ids in, the bytes of their image files out, a few batches ahead of the need."""

    def __init__(self, folder: Path, manifest: Manifest, index: np.ndarray, *, substitute: bool):
        """Checks the size of every tar against the manifest.

        Args:
            folder: the shard folder.
            manifest: of that folder.
            index: of that folder, one row per sample.
            substitute: replace damaged samples by others; otherwise they are errors.

        Raises:
            UserError: a tar is missing or has another size.
        """
        self.index = index
        self.folder = folder
        self._paths = [folder / shard.tar for shard in manifest.shards]
        self._substitute = substitute
        self._undecodable: set[int] = set()
        self._open = lru_cache(maxsize=NUM_OPEN_TARS)(_OpenTar)
        for path, shard in zip(self._paths, manifest.shards, strict=True):
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes where the manifest says {shard.bytes}"
                raise UserError(f"shards {path}: {found}; copy it again, or find all damage: eyespot shards verify")
        self._pool = ThreadPoolExecutor(NUM_THREADS, "eyespot-read")

    def start(self, ids: Int64[np.ndarray, " b"]) -> "Reading":
        """Begins to read these samples in the background."""
        parts = np.array_split(ids, min(NUM_THREADS, len(ids)))
        return Reading([self._pool.submit(self._read_all, part.tolist()) for part in parts])

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
        return f"sample {sample} ({self._paths[row['tar']]}, offset {row['offset']})"

    def close(self) -> None:
        """Ends the threads and closes the tars."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._open.cache_clear()

    def _read_all(self, ids: Sequence[int]) -> list[tuple[int, File]]:
        return [self._read_or_substitute(sample) for sample in ids]

    def _read_or_substitute(self, wanted: int) -> tuple[int, File]:
        """The sample, or the first good one at distance 1, 2, 4, ... behind it: near, then beyond a lost tar."""
        num_samples = len(self.index)
        for sample in [wanted] + [(wanted + 2**k) % num_samples for k in range(num_samples.bit_length())]:
            if sample in self._undecodable:
                continue
            try:
                return sample, self._read(sample)
            except (OSError, ValueError) as error:
                self._complain(sample, str(error))
        raise UserError(f"shards {self.folder}: no readable sample near {wanted}; run: eyespot shards verify")

    def _read(self, sample: int) -> File:
        tar, offset, size, crc32, height, width, _ = self.index[sample].item()
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"an image of {width} x {height} pixels")
        opened = self._open(self._paths[tar])  # held until the read is over
        data = os.pread(opened.fd, size, offset)
        if len(data) != size:
            raise ValueError(f"the tar ends after {len(data)} of the image's {size} bytes")
        if zlib.crc32(data) != crc32:
            raise ValueError("its bytes changed since they were packed (crc32)")
        return np.frombuffer(data, np.uint8)

    def _complain(self, sample: int, reason: str) -> None:
        message = f"{self.describe(sample)} is damaged: {reason}"
        if not self._substitute:
            raise UserError(f"{message}; find all damage with: eyespot shards verify {self.folder}")
        log.warning("%s; another sample takes its place", message)


class Reading:
    """Samples that are being read."""

    def __init__(self, parts: list[Future[list[tuple[int, File]]]]):
        self._parts = parts

    def result(self) -> tuple[Int64[np.ndarray, " b"], list[File]]:
        """Waits for them: the ids of what was read, in the order asked for, and the files.

        Raises:
            UserError: samples are damaged, and none may or can take their place.
        """
        samples = [sample for part in self._parts for sample in part.result()]
        return np.array([sample for sample, _ in samples], np.int64), [file for _, file in samples]
