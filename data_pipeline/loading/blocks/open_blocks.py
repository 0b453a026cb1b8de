"""``open_blocks``: the blocks of a shard folder, in a folder that the ranks of a node share, or in memory."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.loading.blocks.block_cache import BlockCache
from eyespot.data_pipeline.loading.blocks.block_folder import BlockFolder
from eyespot.data_pipeline.loading.blocks.block_layout import BLOCK, REQUEST_BYTES, BlockLayout
from eyespot.data_pipeline.loading.cpu_share import num_neighbours
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience, words
from eyespot.data_pipeline.shards.paged.shard_table import total_bytes
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

log = logging.getLogger("eyespot")

CACHE_GB = 50.0


@dataclass(kw_only=True, slots=True, frozen=True)
class NodeCache:
    """A folder of blocks on a node's own disk, for all that run there."""

    folder: Path
    gb: float = CACHE_GB
    """What it may have, 10^9 bytes."""


def open_blocks(
    shards: ShardFolder,
    files: SampleFiles,
    chosen: Int64[np.ndarray, " n"] | None,
    cache: NodeCache | None,
    ahead: int,
    patience_seconds: float = PATIENCE_SECONDS,
) -> BlockCache | None:
    """The blocks of a shard folder; None = its tars are read in place.

    What cannot be written to the node's disk is held in memory, which a line says.

    Args:
        shards: where the tars are.
        files: that are read.
        chosen: the samples that are seen, in their order; None = all.
        cache: where the node's ranks share blocks; None = each process holds its own, if the tars are remote.
        ahead: samples of this process that use the same blocks; the folder should have room for twice as many.
        patience_seconds: for how long the shards may be away.
    """
    if cache is None and not shards.is_remote:
        return None
    manifest = shards.manifest
    folder, total = None, total_bytes(manifest.shards)
    if cache is not None:
        needed = min(total, 2 * ahead * num_neighbours() * total // manifest.num_samples)
        if (budget := int(cache.gb * 1e9)) < needed:
            few = "less than two shuffle windows of this node; blocks will be fetched several times; give it"
            log.warning("data.cache_gb %g: %s %.2g", cache.gb, few, needed / 1e9)
        parts = [
            manifest.index_sha256,
            *files.identity(),
            hashlib.sha256(b"" if chosen is None else chosen.tobytes()).hexdigest(),
        ]
        key = hashlib.sha256("\n".join([f"1 {BLOCK} {REQUEST_BYTES}", *parts]).encode()).hexdigest()[:24]
        try:
            folder = BlockFolder(cache.folder, key, budget, patience_seconds)
        except OSError as error:
            log.warning("data.cache_dir %s: %s; each process keeps its blocks in memory", cache.folder, words(error))
    return BlockCache(
        shards,
        BlockLayout(files.table, files.lengths, chosen, manifest.num_samples),
        patience=Patience(patience_seconds),
        folder=folder,
        num_ranks=num_neighbours(),
        whole=cache is not None and total <= cache.gb * 1e9,
    )
