"""BlockCache: gives the files of samples out of blocks, which it fetches before they are asked for.

What a process will read is known long before, for the order of samples is. Of what is coming within its look-ahead it
counts the files in each block. Blocks with enough of them are fetched as a whole, and held until the last is read; the
few files of other blocks (a partner drawn from all samples, who stands in for a damaged one, a handful of chosen ones)
cost less when each is asked for alone.
"""

import logging
import resource
import threading
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.loading.blocks.block_bytes import BlockBytes, BytesInFile, BytesInMemory, CheckedBytes
from eyespot.data_pipeline.loading.blocks.block_fetch import MOST_TRIES, fetch
from eyespot.data_pipeline.loading.blocks.block_folder import BlockFolder
from eyespot.data_pipeline.loading.blocks.block_layout import Block, BlockLayout, Span
from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

log = logging.getLogger("eyespot")

Ids = Int64[np.ndarray, " b"]
Plan = Iterator[tuple[Ids, Ids]]
"""Ids and epochs of batches."""

BLOCKS_AT_ONCE, PARTS_AT_ONCE = 4, 8
"""Blocks that a process fetches side by side, and requests: an object store gives one of them 20 to 100 MB a second."""
BEHIND = 8
"""Batches that may still be being read after they were handed on."""
MOST_OPEN = max(64, min(2048, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
"""Files of blocks that a process holds open; others are opened anew."""


class Held(NamedTuple):
    """A block that is there."""

    content: BlockBytes
    places: dict[int, int]
    """By the row's number, where its file begins."""
    bad: frozenset[int]
    """Rows that are damaged in the store."""


class BlockCache:
    """The files of a table, block by block. Many threads may read.

    Args:
        shards: where the tars are.
        layout: which rows are a block.
        patience: to wait with where they cannot be read now; closed with the cache.
        folder: shares the blocks with the other processes of the node; None = they are held in memory.
        num_ranks: that read from the folder, each as much of a block as this one.
        whole: whether every block is fetched of which one file is wanted, for all of them fit into the folder.
    """

    def __init__(
        self,
        shards: ShardFolder,
        layout: BlockLayout,
        *,
        patience: Patience,
        folder: BlockFolder | None = None,
        num_ranks: int = 1,
        whole: bool = False,
    ) -> None:
        self._shards, self._layout, self._folder, self._patience = shards, layout, folder, patience
        self._share = num_ranks if folder is not None else 1
        self._enough: Callable[[int], float] = lru_cache(4096)(lambda block: 1 if whole else layout.block(block).enough)
        self._held = OrderedDict[int, Future[Held]]()
        self._unreadable = set[int]()
        """Blocks whose file the cache's disk did not give."""
        self._asked = set[int]()
        """Blocks of whose damaged rows the store has been asked by this process."""
        self._coming = Counter[int]()
        """By block, files that are coming or being read."""
        self._announced, self._num_passed, self._looks_ahead = deque[dict[int, int]](), 0, False
        self._lock, self._counting, self._closed = threading.RLock(), threading.Lock(), False
        self._blocks = ThreadPoolExecutor(BLOCKS_AT_ONCE, "eyespot-blocks")
        self._parts = ThreadPoolExecutor(PARTS_AT_ONCE, "eyespot-parts")
        self.counts = Counter[str]()
        """Since the start: requests, bytes, blocks fetched, and those of them that only memory took."""

    def ahead(self, plan: Plan, rows_of: Callable[[Ids, Ids], np.ndarray], num_samples: int) -> Plan:
        """The same batches, known so many samples before they are read.

        Args:
            plan: the batches that this process will read, with none left out.
            rows_of: ids and epochs in; the rows of each sample's files out.
            num_samples: of the look-ahead: as many as use the same blocks, that each block is held until its last.
        """
        self._looks_ahead = True
        coming, count = deque[tuple[Ids, Ids]](), 0
        for ids, epochs in plan:
            self._announce(rows_of(ids, epochs).ravel())
            coming.append((ids, epochs))
            count += len(ids)
            while count - len(coming[0][0]) >= num_samples:
                count -= len(coming[0][0])
                yield coming.popleft()
                self._pass()
        for batch in coming:
            yield batch
            self._pass()

    def expect(self, rows: Ids) -> None:
        """Rows are read next; unless all that is read is known long before."""
        if not self._looks_ahead:
            self._announce(rows)
            self._pass()

    def read(self, number: int, tar: int, offset: int, size: int, crc32: int, flags: int = 0) -> bytearray:
        """One file.

        Args:
            number: of its row.
            tar: in which it lies.
            offset: of its first byte.
            size: bytes.
            crc32: of them.
            flags: RWF_NOWAIT = only if nothing has to be waited for.

        Raises:
            BlockingIOError: something has to.
            OSError: it cannot be read.
            Outage: for so long.
        """
        block = self._layout.block_of(number)
        if (held := self._get(block, wait=not flags)) is not None:
            if isinstance(held.content, BytesInMemory) and number not in held.bad:
                return CheckedBytes(held.content.view(held.places[number], size))
            try:
                return held.content.read(held.places[number], size, flags)
            except OSError:
                if not flags:  # the cache's disk is broken there: memory will do
                    self._unreadable.add(block)
                    self._drop(block)
                raise
        if flags:
            raise BlockingIOError
        span = Span(tar, offset, offset + size)
        content = CheckedBytes(self._read(span))
        for _ in range(MOST_TRIES - 1):
            if zlib.crc32(content) == crc32:
                return content
            content = CheckedBytes(self._read(span))
        return bytearray(content)  # the last is not compared here

    def discard(self, number: int) -> bool:
        """Bytes are not what was packed: takes the block away if they changed on the cache's disk.

        Returns:
            Whether they may be others when they are read once more.
        """
        block = self._layout.block_of(number)
        if block < 0 or self._folder is None:
            return False
        held = self._get(block, wait=False) or self._open(block, self._folder)
        if held is None:  # another thread has taken it away, or the file came alone
            return True
        if number in held.bad or not isinstance(held.content, BytesInFile):
            return False
        self._folder.discard(block, held.content)
        with self._lock:
            self._drop(block)
            if self._is_wanted(block):
                self._want(block)
        return True

    def close(self) -> None:
        """Ends the threads; what they fetch is lost."""
        self._closed = True
        self._patience.close()
        if self._folder is not None:
            self._folder.close()
        for pool in (self._blocks, self._parts):
            pool.shutdown(wait=True, cancel_futures=True)
        self._held.clear()

    def _announce(self, rows: Ids) -> None:
        counts = self._layout.blocks_of(rows)
        with self._lock:
            self._announced.append(counts)
            for block, count in counts.items():
                self._coming[block] += count
                if block not in self._held and self._is_wanted(block):
                    self._want(block)

    def _pass(self) -> None:
        """The next of the announced batches is being read; one that was long ago is not, and lets go of its blocks."""
        with self._lock:
            self._num_passed += 1
            if self._num_passed <= BEHIND:
                return
            self._num_passed -= 1
            for block, count in self._announced.popleft().items():
                self._coming[block] -= count
                if not self._coming[block]:
                    del self._coming[block]
                    self._drop(block)

    def _want(self, block: int) -> None:
        if self._closed:
            return
        self._held[block] = self._blocks.submit(self._load, block)
        if self._folder is None:
            return
        for other, future in list(self._held.items())[: max(0, len(self._held) - MOST_OPEN)]:
            if future.done():
                del self._held[other]

    def _drop(self, block: int) -> None:
        with self._lock:
            if (future := self._held.pop(block, None)) is not None:
                future.cancel()

    def _get(self, block: int, *, wait: bool) -> Held | None:
        """The block, if it is there or on its way; None = it is not, or would have to be waited for."""
        future = self._held.get(block)
        if future is None and wait and block >= 0 and self._folder is not None:
            if not self._is_wanted(block):
                return None if block in self._unreadable else self._open(block, self._folder)
            with self._lock:  # it was let go of too early
                if block not in self._held:
                    self._want(block)
                future = self._held.get(block)
        if future is None or not (wait or future.done()):
            return None
        try:
            return future.result()
        except CancelledError:
            return None
        except BaseException:
            with self._lock:
                if self._held.get(block) is future:
                    del self._held[block]
            raise

    def _is_wanted(self, block: int) -> bool:
        """Whether enough of its files are coming."""
        return self._coming[block] * self._share >= self._enough(block)

    def _open(self, block: int, folder: BlockFolder) -> Held | None:
        """A block that nobody counts on, but that lies in the folder."""
        planned = self._layout.block(block)
        found = folder.open(block, planned.size)
        return None if found is None else _held(planned, found, found.bad)

    def _load(self, number: int) -> Held:
        block = self._layout.block(number)
        if self._folder is not None and number not in self._unreadable:

            def fetched(target: BlockBytes) -> frozenset[int]:
                self._asked.add(number)
                return self._fetch(block, target)

            found = self._folder.open_or_fetch(number, block.size, fetched)
            if found is not None and self._is_mended(number, block, found.bad):
                self._folder.discard(number, found)
                found = self._folder.open_or_fetch(number, block.size, fetched)
            if found is not None:
                return _held(block, found, found.bad)
            with self._counting:
                self.counts["blocks in memory"] += 1
        content = BytesInMemory(block.size)
        return _held(block, content, self._fetch(block, content))

    def _is_mended(self, number: int, block: Block, bad: frozenset[int]) -> bool:
        """Whether a row that was damaged when an earlier run fetched the block no longer is; asked once."""
        if not bad or number in self._asked:
            return False
        self._asked.add(number)
        for row in block.rows[np.isin(block.numbers, list(bad))]:
            begin = int(row["offset"])
            content = self._read(Span(int(row["tar"]), begin, begin + int(row["size"])))
            if zlib.crc32(content) == int(row["crc32"]):
                return True
        return False

    def _fetch(self, block: Block, target: BlockBytes) -> frozenset[int]:
        bad = fetch(block, target, self._read, self._parts)
        with self._counting:
            self.counts["blocks"] += 1
        return bad

    def _read(self, span: Span) -> memoryview:
        tar, begin, end = span
        store, key = self._shards.store, self._shards.tar_key(tar)
        content = self._patience.read(self._shards.tar_path(tar), lambda: store.view(key, begin, end))
        with self._counting:
            self.counts["requests"] += 1
            self.counts["bytes"] += len(content)
        return content


def _held(block: Block, content: BlockBytes, bad: frozenset[int]) -> Held:
    return Held(content, dict(zip(block.numbers.tolist(), block.places.tolist(), strict=True)), bad)
