"""Reads the files of samples out of the tars, checks them, and stands in for samples with a file that is damaged.

Damage is bytes that came and are not what was packed. A read that fails is none, and is tried again: see patience.py.

Plain reads, never ``mmap``: a tar that is cut short while mapped kills the process with SIGBUS.
"""

import logging
import os
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.blocks.block_bytes import CheckedBytes
from eyespot.data_pipeline.loading.blocks.block_cache import BlockCache
from eyespot.data_pipeline.loading.blocks.block_layout import BlockLayout
from eyespot.data_pipeline.loading.image_header import image_size
from eyespot.data_pipeline.loading.mixtures.source_bounds import bounds_of, folder_of
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience
from eyespot.data_pipeline.shards.paged.paged_index import RowsById
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

log = logging.getLogger("eyespot")

NUM_THREADS = 16
"""Reads in flight: disks and network file systems answer many at once far faster than one after another."""
NUM_OPEN_TARS = 64
MAX_PIXELS = 2**28
"""A larger image is an attack or a mistake, and would exhaust the memory when decoded."""
MAX_NAMED = 5
"""Damaged samples that are named at the terminal; the log names all."""
_LACKS = "it has none of what a view shows beside its image"

File = bytearray
Row = tuple[int, ...]
"""Of the index."""
Ids = Int64[np.ndarray, " b"]
RowsOf = Callable[[Ids, Ids], Int64[np.ndarray, "b k"]]
"""Ids and epochs in; of each sample the rows of the index where its files stand out."""
Sample = tuple[int, list[int], list[File]]
"""Its id, the rows where its files stand, and the files."""


def _own_row(ids: Ids, epochs: Ids) -> Int64[np.ndarray, "b 1"]:
    """The image of each sample."""
    return ids[:, None]


@runtime_checkable
class FileSource(Protocol):
    """Where a reader has the bytes of files from; BlockCache is one, and its methods say more."""

    def expect(self, rows: Ids) -> None:
        """Rows are read next."""
        ...

    def read(self, number: int, tar: int, offset: int, size: int, crc32: int, flags: int = 0) -> bytearray:
        """One file; raises OSError where it cannot be read, or not without waiting where flags ask for that."""
        ...

    def discard(self, number: int) -> bool:
        """Bytes are not what was packed: whether to read them once more."""
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...


class _OpenTar:
    """A file descriptor that closes when the last thread lets go of it, so eviction cannot pull it from under one."""

    def __init__(self, path: Path, size: int | None = None):
        self.fd = os.open(path, os.O_RDONLY)
        if size is not None and (found := os.fstat(self.fd).st_size) != size:
            raise ValueError(f"its tar has {found} bytes where the manifest says {size}")

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class TarFiles:
    """The tars themselves, on a file system.

    Args:
        shards: their folder.
    """

    def __init__(self, shards: ShardFolder) -> None:
        self._shards, self._failures, self._sound = shards, defaultdict[int, int](int), set[int]()
        # Of a tar and how often reading it has failed: after each time it is opened anew.
        self._open = lru_cache(maxsize=NUM_OPEN_TARS)(self._opened)

    def _opened(self, tar: int, failures: int) -> _OpenTar:
        """Raises ValueError where it never had its size; OSError where it has it no longer."""
        try:
            opened = _OpenTar(self._shards.local_tar(tar), self._shards.tar_bytes(tar))
        except ValueError as error:
            if tar in self._sound:
                raise OSError(str(error)) from error
            raise
        self._sound.add(tar)
        return opened

    def expect(self, rows: Ids) -> None:
        """The system's own read-ahead is enough."""

    def read(self, number: int, tar: int, offset: int, size: int, crc32: int, flags: int = 0) -> bytearray:
        """By one ``preadv``."""
        data = bytearray(size)
        try:
            opened = self._open(tar, self._failures[tar])  # held until the read is over
            if (num_read := os.preadv(opened.fd, [data], offset, flags)) != size:
                raise OSError(f"the tar ends after {num_read} of the image's {size} bytes")
        except OSError:
            if not flags:
                self._failures[tar] += 1
            raise
        return data

    def discard(self, number: int) -> bool:
        """There are no others."""
        return False

    def close(self) -> None:
        """Closes the tars."""
        self._open.cache_clear()


class Reader:
    """Sample ids in, the bytes of their files out, a few batches ahead of the need: of each sample all, or none."""

    def __init__(
        self,
        shards: ShardFolder,
        *,
        substitute: bool,
        index: np.ndarray | RowsById | None = None,
        among: Ids | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        source: FileSource | None = None,
    ):
        """Makes sure that every tar has the size that the manifest says; of format 2 when it is first opened.

        Args:
            shards: where to read.
            substitute: replace damaged samples by others; otherwise they are errors.
            index: the files that can be read; None = the image of each sample, as the shards' index says.
            among: the samples that may stand in for others, ascending; None = all.
            patience_seconds: for how long a read that fails is tried again.
            source: of the bytes, which the reader closes; None = the tars themselves, or blocks of remote ones.

        Raises:
            UserError: a tar is missing or has another size, or there is no sound index.
        """
        shards.check_tars()
        self.index = shards.table if index is None else index
        self.shards = shards
        self._substitute, self._among = substitute, among
        self._undecodable, self._rejected = set[int](), set[int]()
        """Rows, and the samples whose they are."""
        self._named, self._naming = set[int](), threading.Lock()
        self._patience = Patience(patience_seconds)
        if source is None and shards.is_remote:
            layout = BlockLayout(self.index, [len(self.index)])
            source = BlockCache(shards, layout, patience=Patience(patience_seconds))
        self._source = source or TarFiles(shards)
        self._pool = ThreadPoolExecutor(NUM_THREADS, "eyespot-read")

    def start(
        self,
        ids: Ids,
        epochs: Ids | None = None,
        rows_of: RowsOf = _own_row,
        other_than: Ids | None = None,
    ) -> "Reading":
        """Takes what the system has in memory at once, and begins to read the rest in the background.

        Args:
            ids: of the samples.
            epochs: how often each had been seen before; None = never.
            rows_of: the files of each; usually its image.
            other_than: of each sample, whom nothing may stand in for it that is this one.
        """
        epochs = np.zeros_like(ids) if epochs is None else epochs
        rows = rows_of(ids, epochs)
        each, flat = rows.shape[1], rows.ravel()
        self._source.expect(flat)
        files = list(map(self._read_from_memory, flat.tolist(), self.index[flat].tolist()))
        places = np.unique([place // each for place, file in enumerate(files) if file is None]).astype(np.int64)
        parts = np.array_split(places, min(NUM_THREADS, len(places))) if len(places) else []
        others = [-1] * len(ids) if other_than is None else other_than.tolist()
        wanted = list(zip(ids.tolist(), epochs.tolist(), others, strict=True))
        late = [
            (part.tolist(), self._pool.submit(self._read_all, [wanted[place] for place in part], rows_of))
            for part in parts
        ]
        return Reading(ids, rows, files, late)

    def reject(self, sample: int, row: int, reason: str) -> None:
        """Remembers that the bytes of a sample's file are as packed but cannot be decoded.

        Raises:
            UserError: damaged samples are errors here.
        """
        self._undecodable.add(row)
        self._rejected.add(sample)
        self._complain(sample, row, reason)

    @property
    def num_rejected(self) -> int:
        """How many samples were rejected."""
        return len(self._rejected)

    def describe(self, sample: int, row: int | None = None) -> str:
        """Names a sample for people: its id, tar and place; or those of one of its files."""
        place = self.shards.table[sample] if row is None else self.index[row]
        return f"sample {sample} ({self.shards.tar_path(int(place['tar']))}, offset {place['offset']})"

    def close(self) -> None:
        """Ends the threads and closes the tars."""
        self._patience.close()
        self._source.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_from_memory(self, number: int, row: Row) -> File | None:
        """The file, if no disk has to be waited for and nothing is wrong with it.

        Handing a small file to a thread costs several times what reading it from the page cache costs.
        """
        if number in self._undecodable:
            return None
        try:
            return self._read(number, row, os.RWF_NOWAIT)
        except (OSError, ValueError):
            return None

    def _read_all(self, wanted: Sequence[tuple[int, int, int]], rows_of: RowsOf) -> list[Sample]:
        return [self._read_or_substitute(*each, rows_of) for each in wanted]

    def _read_or_substitute(self, wanted: int, epoch: int, other_than: int, rows_of: RowsOf) -> Sample:
        """The sample, or the first good one that may stand in for it."""
        for sample in [wanted, *self._stand_ins(wanted)]:
            if sample == other_than:
                continue
            (rows,) = rows_of(np.array([sample]), np.array([epoch])).tolist()
            if not self._undecodable.isdisjoint(rows):
                continue
            if (files := self._all_of(sample, rows)) is not None:
                return sample, rows, files
        folder = folder_of(self.shards, wanted).path
        raise UserError(
            f"shards {folder}: no readable sample near {wanted}, {len(self._named)} are damaged or incomplete; run:"
            f" eyespot shards verify {folder}"
        )

    def _stand_ins(self, wanted: int) -> list[int]:
        """Those at distance 1, 2, 4, ... behind it: near, then beyond a bad tar.

        Where a run learns from chosen samples they are others of these: what was kept from it, for a test say, stays
        so, and who needs a label gets one. Of a mixture they are of the same source.
        """
        bounds = bounds_of(self.shards)
        source = int(np.searchsorted(bounds, wanted, side="right"))
        ends = bounds[source - 1 : source + 1]
        if self._among is None:
            first, count, place = int(ends[0]), int(ends[1] - ends[0]), wanted - int(ends[0])
            return [first + (place + 2**k) % count for k in range(count.bit_length())]
        first, end = np.searchsorted(self._among, ends).tolist()
        place, count = int(np.searchsorted(self._among, wanted)) - first, end - first
        return [int(self._among[first + (place + 2**k) % count]) for k in range(count.bit_length())]

    def _all_of(self, sample: int, rows: Sequence[int]) -> list[File] | None:
        """A sample's files; None where one is damaged."""
        files: list[File] = []
        for number in rows:
            row = self.index[number].item()
            try:
                path = self.shards.tar_path(row[0])
                files.append(self._patience.read(path, lambda number=number, row=row: self._read(number, row)))
            except ValueError as error:
                self._complain(sample, number, str(error))
                return None
        return files

    def _read(self, number: int, row: Row, flags: int = 0) -> File:
        """Raises OSError where it cannot be read, ValueError where it is not what was packed."""
        tar, offset, size, crc32, height, width, _ = row
        is_image = height > 0
        if not size and is_image:  # a mask that is not there: no image is so small
            return bytearray()
        if not size:
            raise ValueError(_LACKS)
        if is_image and not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"an image of {width} x {height} pixels")
        data = self._source.read(number, tar, offset, size, crc32, flags)
        if not isinstance(data, CheckedBytes) and zlib.crc32(data) != crc32:
            if not flags and self._source.discard(number):
                data = self._source.read(number, tar, offset, size, crc32)
            if zlib.crc32(data) != crc32:
                key = self.shards.tar_key(tar)
                replaced = "; the object was replaced since the run began" if self.shards.store.is_changed(key) else ""
                raise ValueError(f"its bytes changed since they were packed (crc32){replaced}")
        if is_image and (found := image_size(data)) != (height, width):
            told = f"{found[1]} x {found[0]} pixels" if found else "no image"
            raise ValueError(f"{told} where the index says {width} x {height}")
        return data

    def _complain(self, sample: int, row: int, reason: str) -> None:
        """Names each damaged sample once: the first few everywhere, the others in the log."""
        lacks = reason == _LACKS
        message = f"{self.describe(sample, row)} {'is incomplete' if lacks else 'is damaged'}: {reason}"
        if not self._substitute:
            verify = f"find all damage with: eyespot shards verify {folder_of(self.shards, sample).path}"
            raise UserError(f"{message}; {'name those that have it with --data.ids' if lacks else verify}")
        with self._naming:
            if sample in self._named:
                return
            self._named.add(sample)
            count = len(self._named)
        if count <= MAX_NAMED:
            log.warning("%s; another sample takes its place", message)
            return
        if count == MAX_NAMED + 1:
            log.warning("more samples are damaged: the log names them, bad_samples counts how often they were replaced")
        log.info("%s; another sample takes its place", message, extra={"file_only": True})


class Reading:
    """Samples that are being read."""

    def __init__(
        self,
        ids: Ids,
        rows: Int64[np.ndarray, "b k"],
        files: list[File | None],
        late: list[tuple[list[int], Future[list[Sample]]]],
    ):
        """Gathers them.

        Args:
            ids: what was asked for.
            rows: where the files of each stand.
            files: those that are there already, those of a sample behind each other.
            late: places of the samples that are still being read, and what will come.
        """
        self.rows = rows.copy()  # they may be the ids
        """Of the files; once they are there, of those that were read."""
        self._ids, self._files, self._late = ids, files, late

    def result(self) -> tuple[Ids, list[File]]:
        """Waits for them: the ids of what was read, in the order asked for, and the files.

        Raises:
            UserError: samples are damaged, and none may or can take their place.
            Outage: they could not be read for so long.
        """
        ids, files, each = self._ids.copy(), self._files, self.rows.shape[1]
        for places, samples in self._late:
            for place, (sample, rows, found) in zip(places, samples.result(), strict=True):
                files[place * each : (place + 1) * each] = found
                if sample != ids[place]:
                    ids[place], self.rows[place] = sample, rows
        return ids, cast(list[File], files)
