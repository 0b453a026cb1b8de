"""Where the samples of each source lie among all: of a shard folder that is no mixture, its own are all."""

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def bounds_of(shards: ShardFolder) -> Int64[np.ndarray, " bounds"]:
    """The first sample of each source, and how many all have."""
    return np.cumsum([0, *(source.manifest.num_samples for source in shards.sources)])


def folder_of(shards: ShardFolder, sample: int) -> ShardFolder:
    """The folder that a sample lies in."""
    return shards.sources[int(np.searchsorted(bounds_of(shards), sample, side="right")) - 1]


def is_paged(shards: ShardFolder) -> bool:
    """Whether the index of one is in pieces: then nobody should ask for the rows of all samples."""
    return any(source.manifest.pieces is not None for source in shards.sources)
