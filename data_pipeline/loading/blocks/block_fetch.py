"""Fetches a block in parts, side by side, and fetches again what is not what was packed."""

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.loading.blocks.block_bytes import BlockBytes, CacheDiskError
from eyespot.data_pipeline.loading.blocks.block_layout import Block, Span, parts, spans

ReadRange = Callable[[Span], memoryview]
"""Bytes of a tar: all of them, or an error."""

MOST_TRIES = 3
"""Of bytes that differ from what was packed; then they are taken to be damaged in the store."""


def fetch(block: Block, target: BlockBytes, read: ReadRange, pool: Executor) -> frozenset[int]:
    """Writes a block's bytes. Of what a checksum does not confirm, the ranges of those files are fetched again.

    Args:
        block: what it consists of.
        target: takes its bytes.
        read: gives them.
        pool: its threads read parts side by side.

    Returns:
        The numbers of the rows that differed each time.

    Raises:
        CacheDiskError: of the target.
        Exception: of ``read``.
    """

    def copy(part: Span) -> None:
        target.write(block.place(part.tar, part.begin), read(part))

    wrong = np.flatnonzero(block.places >= 0)
    for _ in range(MOST_TRIES):
        copies = [pool.submit(copy, part) for part in parts(spans(block.rows[wrong])[0])]
        try:
            for each in copies:
                each.result()
        finally:
            for each in copies:
                each.cancel()
        wrong = _unsound(block, wrong, target)
        if not len(wrong):
            break
    return frozenset(block.numbers[wrong].tolist())


def _unsound(block: Block, rows: Int64[np.ndarray, " n"], target: BlockBytes) -> Int64[np.ndarray, " m"]:
    """Those of the rows whose bytes are not what was packed."""
    sizes, expected = block.rows["size"][rows].tolist(), block.rows["crc32"][rows].tolist()
    try:
        found = list(target.checksums(block.places[rows].tolist(), sizes))
    except OSError as error:
        raise CacheDiskError(error.strerror or str(error)) from error
    return rows[np.array(found, np.int64) != np.array(expected, np.int64)]
