"""The order of whatever a run learns from: of one shard folder its own, of a mixture that of its sources."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.loading.mixtures.mixed_order import MixedOrder, seed_of
from eyespot.data_pipeline.loading.mixtures.mixed_shards import MixedShards
from eyespot.data_pipeline.loading.mixtures.schedule import Schedule
from eyespot.data_pipeline.order.orders import Order, make_order
from eyespot.data_pipeline.order.sample_order import SHUFFLE_WINDOW
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

Ids = Int64[np.ndarray, " _"]


def order_of(
    shards: ShardFolder,
    chosen: Ids | None,
    seed: int,
    *,
    shuffle_window: int = SHUFFLE_WINDOW,
    lanes: int = 1,
    frame: int = 0,
) -> Order:
    """Which of the chosen samples stands at which position of the endless stream.

    Args:
        shards: what is learned from.
        chosen: which of its samples, as ``shards.chosen`` orders them; None = all.
        seed: of the run.
        shuffle_window: samples that are shuffled together, of each source.
        lanes: of each source: its share of a frame is dealt to as many lanes.
        frame: positions of the stream that are dealt to the lanes.

    Raises:
        UserError: a source would come less than once in the longest period of a schedule.
    """
    if not isinstance(shards, MixedShards):
        count = shards.manifest.num_samples if chosen is None else len(chosen)
        return make_order(count, seed, shuffle_window=shuffle_window, lanes=lanes, frame=frame)
    sizes = (np.diff(shards.bounds) if chosen is None else shards.per_source(chosen)).tolist()
    turns = shards.turns(sizes)
    orders = [
        make_order(
            size,
            seed_of(seed, source),
            shuffle_window=shuffle_window,
            lanes=lanes,
            frame=share_of_frame(frame, turns[source] / sum(turns), lanes),
        )
        for source, size in enumerate(sizes)
    ]
    return MixedOrder(orders, Schedule(turns), {"lanes": lanes, "lane_frame": frame} if lanes > 1 else {})


def share_of_frame(frame: int, share: float, lanes: int) -> int:
    """The positions of a source that are dealt to its lanes: its share of the stream's, in whole lanes."""
    return max(1, round(frame * share / lanes)) * lanes


@dataclass(kw_only=True, slots=True)
class SourceCounts:
    """What a stream has taken from each source."""

    shards: MixedShards
    order: MixedOrder
    bad: Ids = field(init=False)
    """(sources,) delivered samples of this rank that stand in for damaged ones."""

    def __post_init__(self) -> None:
        self.bad = np.zeros(len(self.names), np.int64)

    @classmethod
    def of(cls, shards: ShardFolder, order: Order) -> "SourceCounts | None":
        """Those of a stream in that order; None = the shards are no mixture."""
        if not isinstance(shards, MixedShards) or not isinstance(order, MixedOrder):
            return None
        return cls(shards=shards, order=order)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return self.shards.names

    def add_bad(self, samples: Ids) -> None:
        """Others stand in for these."""
        self.bad += self.shards.per_source(samples)

    def told(self, samples_seen: int) -> dict[str, float]:
        """For a line of metrics: of each source its share of the stream so far, and how often it was gone through."""
        counts, told = self.order.counts(samples_seen), dict[str, float]()
        for name, count, size in zip(self.names, counts.tolist(), self.order.sizes.tolist(), strict=True):
            told[f"data/source/{name}/share"] = round(count / max(1, samples_seen), 6)
            told[f"data/source/{name}/passes"] = round(count / size, 4)
        return told
