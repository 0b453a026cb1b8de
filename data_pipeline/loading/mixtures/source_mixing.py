"""How many classes a run's batches hold, source by source: each has an order, and a share of the batch, of its own."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.loading.class_mixing import Mixing, class_mixing
from eyespot.data_pipeline.loading.mixtures.mixed_shards import MixedShards
from eyespot.data_pipeline.loading.mixtures.stream_order import share_of_frame
from eyespot.data_pipeline.order.sample_order import SHUFFLE_WINDOW
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def source_mixing(
    shards: ShardFolder,
    batch_size: int,
    *,
    seed: int = 0,
    window: int = SHUFFLE_WINDOW,
    lanes: int = 1,
    frame: int = 0,
    ids: Int64[np.ndarray, " n"] | None = None,
) -> Iterator[tuple[ShardFolder, Mixing]]:
    """``class_mixing`` of each source of a mixture, or of the folder; of those that have at least two classes.

    Args:
        shards: what is learned from.
        batch_size: of all sources together; the others as for ``class_mixing``.
        ids: as ``shards.chosen`` orders them; None = all.
    """
    how = {"seed": seed, "window": window, "lanes": lanes}
    parts = [(shards, ids, batch_size, frame)]
    if isinstance(shards, MixedShards):
        parts = [
            (source, own, max(1, round(share * batch_size)), share_of_frame(frame or batch_size, share, lanes))
            for (source, own), share in zip(shards.apart(ids), shards.shares, strict=True)
        ]
    for source, own, count, part in parts:
        if (found := class_mixing(source, count, **how, frame=part, ids=own)) is not None:
            yield source, found
