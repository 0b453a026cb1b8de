"""How many classes a batch holds, of shards whose tars are sorted, and how many it would hold in a true shuffle.

The order of samples shuffles inside windows (sample_order.py). Where a tar holds one class after another, as
``tar --sort=name`` of class folders writes them, a window holds few classes, and so does every batch. Lanes
(lane_order.py) fill a batch from as many windows as there are lanes, and a wider window holds more classes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer

from eyespot.data_pipeline.order.orders import Order, make_order
from eyespot.data_pipeline.order.sample_order import BLOCK, SHUFFLE_WINDOW, num_blocks
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

NUM_BATCHES = 8
"""Batches that are counted, spread over an epoch."""
NUM_BLOCKS = 512
"""Of an index in pieces, from which the batches are taken that are counted."""
FEW = 0.8
"""A batch that holds less than this share of what a shuffle would give is poorly mixed."""
BATCH_SIZES = (256, 1024)
"""Of runs that nobody has asked for yet."""
MOST_OPEN = 2**22
"""Samples in the windows of all lanes: more lanes than that are not tried."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Mixing:
    """What a batch holds, on average."""

    what: str
    """classes or tars."""
    batch_size: int
    found: float
    """Different ones in a batch."""
    shuffled: float
    """In a batch of a true shuffle."""
    window: int
    """Samples that are shuffled together."""
    wider: int
    """The smallest window that mixes well."""
    lanes: int
    """That the run has."""
    more_lanes: int
    """The fewest that mix well with this window; as many as now where no number does."""
    with_more: float
    """Different ones in a batch that comes from so many lanes."""

    @property
    def is_poor(self) -> bool:
        """Whether the batches are poorly mixed."""
        return self.found < FEW * self.shuffled

    def __str__(self) -> str:
        return (
            f"the tars are sorted: a batch of {self.batch_size:,} holds {self.found:.0f} {self.what}, where a shuffle"
            f" has {self.shuffled:.0f}; {self.cure} (reads then come from more places at once), or pack the images"
            " anew, which shuffles them"
        )

    @property
    def cure(self) -> str:
        """The settings that mix well, in words."""
        widen = f"widen --data.shuffle-window from {self.window:,} to {self.wider:,}"
        if self.more_lanes == self.lanes:
            return widen
        share = self.with_more / self.shuffled
        return f"set --data.lanes {self.more_lanes} (then {self.with_more:.0f}, {share:.0%}), or {widen}"


def class_mixing(
    shards: ShardFolder,
    batch_size: int,
    *,
    seed: int = 0,
    window: int = SHUFFLE_WINDOW,
    lanes: int = 1,
    frame: int = 0,
    ids: Int64[np.ndarray, " n"] | None = None,
) -> Mixing | None:
    """Of the batches of a run; None where its samples have fewer than two classes.

    Args:
        shards: what it learns from.
        batch_size: over all ranks.
        seed: of the run.
        window: samples that it shuffles together.
        lanes: that it has.
        frame: samples that are dealt to them; 0 = a batch.
        ids: the samples that it learns from, in their order; None = all.
    """
    rows = shards.rows(ids) if ids is not None else _known_rows(shards)
    return _mixing("classes", rows["label"], batch_size, seed, window, lanes, frame)


def tar_mixing(shards: ShardFolder, batch_size: int) -> Mixing | None:
    """Of tars that another tool wrote, whose samples have no labels: whether their neighbours are alike is unknown."""
    rows = _known_rows(shards)
    return _mixing("tars", rows["tar"].astype(np.int64), batch_size, 0, SHUFFLE_WINDOW)


def _known_rows(shards: ShardFolder) -> np.ndarray:
    """All; of an index in pieces some."""
    table = shards.table
    return table if isinstance(table, np.ndarray) else _blocks_of(shards)


def _blocks_of(shards: ShardFolder) -> np.ndarray:
    """Rows of whole blocks, spread evenly over an index that is too large to be read for this.

    A window takes blocks from anywhere, so what blocks hold says how many kinds it holds.
    """
    num_samples = shards.manifest.num_samples
    count = min(NUM_BLOCKS, num_samples // BLOCK) or 1
    first = np.arange(count) * (num_samples // BLOCK) // count * BLOCK
    ids = (first[:, None] + np.arange(BLOCK)).ravel()
    return shards.rows(ids[ids < num_samples])


def mixing_notes(shards: ShardFolder) -> list[str]:
    """What there is to say before a run: one line for the smallest usual batch that is poorly mixed, if any is."""
    for batch_size in BATCH_SIZES:
        found = class_mixing(shards, batch_size)
        if found is not None and found.is_poor:
            return [f"{shards.path}: {found}"]
    if shards.manifest.num_labeled or shards.manifest.packing:
        return []
    found = tar_mixing(shards, BATCH_SIZES[0])
    if found is None or not found.is_poor:
        return []
    return [
        f"{shards.path}: no labels; a batch of {found.batch_size} holds samples of {found.found:.0f} tars, where a"
        f" shuffle has {found.shuffled:.0f}: if the samples of a tar are alike, {found.cure}"
    ]


def _mixing(
    what: str,
    kinds: Integer[np.ndarray, " n"],
    batch_size: int,
    seed: int,
    window: int,
    lanes: int = 1,
    frame: int = 0,
) -> Mixing | None:
    sizes, frame = np.bincount(kinds[kinds >= 0]), frame or batch_size
    batch_size = min(batch_size, len(kinds))
    if (sizes > 0).sum() < 2:
        return None

    def ordered(lanes: int) -> Order:
        return make_order(len(kinds), seed, shuffle_window=window, lanes=lanes, frame=frame)

    shuffled = distinct_in_shuffle(sizes, len(kinds), batch_size)
    # One window of all samples is a shuffle; of few samples 8 batches could say otherwise by chance.
    found = _found(kinds, batch_size, ordered(lanes)) if window < len(kinds) else shuffled
    wider, more_lanes, with_more = window, lanes, found
    if found < FEW * shuffled:
        wider = _wider(kinds, batch_size, seed, window, (1 + FEW) / 2 * shuffled)
        for more in _lanes_to_try(lanes, frame, MOST_OPEN // window):
            if (with_more := _found(kinds, batch_size, ordered(more))) >= FEW * shuffled:
                more_lanes = more
                break
    return Mixing(
        what=what,
        batch_size=batch_size,
        found=found,
        shuffled=shuffled,
        window=window,
        wider=wider,
        lanes=lanes,
        more_lanes=more_lanes,
        with_more=with_more,
    )


def _wider(kinds: Integer[np.ndarray, " n"], batch_size: int, seed: int, window: int, wanted: float) -> int:
    """The smallest window, doubled again and again, in which a batch holds so many kinds."""
    while window < len(kinds):
        window *= 2
        if _sketched(kinds, batch_size, seed, window) >= wanted:
            break
    return min(window, num_blocks(len(kinds)) * BLOCK)


def _lanes_to_try(lanes: int, frame: int, most: int) -> list[int]:
    """More lanes than there are that divide the frame, each at least twice as many as the one before."""
    tried = [lanes]
    for more in range(2 * lanes, min(frame, most) + 1):
        if frame % more == 0 and more >= 2 * tried[-1]:
            tried.append(more)
    return tried[1:]


def distinct_in_shuffle(sizes: Integer[np.ndarray, " kinds"], num_samples: int, batch_size: int) -> float:
    """How many kinds a batch drawn without replacement holds on average.

    A kind of n samples is missing with probability C(N - n, B) / C(N, B).

    Args:
        sizes: samples of each kind.
        num_samples: N, of all kinds and of none.
        batch_size: B.
    """
    from scipy.special import gammaln  # takes a while to import

    def log_choose(total: np.ndarray) -> np.ndarray:
        return gammaln(total + 1) - gammaln(batch_size + 1.0) - gammaln(total - batch_size + 1)

    others = num_samples - sizes[sizes > 0].astype(np.float64)
    enough = others >= batch_size
    missing = np.exp(log_choose(others[enough]) - log_choose(np.array([float(num_samples)])))
    return float(len(others) - missing.sum())


def _found(kinds: Integer[np.ndarray, " n"], batch_size: int, order: Order) -> float:
    """In batches of the order that a run really takes."""
    starts = np.linspace(0, len(kinds) - batch_size, NUM_BATCHES).astype(np.int64).tolist()
    return float(np.mean([_distinct(kinds[order.ids(start, batch_size)[0]]) for start in starts]))


def _sketched(kinds: Integer[np.ndarray, " n"], batch_size: int, seed: int, window: int) -> float:
    """As ``_found``, of blocks drawn at random: to try many windows without computing their orders."""
    draw, counts = np.random.default_rng(seed), []
    for _ in range(NUM_BATCHES):
        blocks = draw.choice(num_blocks(len(kinds)), min(num_blocks(window), num_blocks(len(kinds))), replace=False)
        place = draw.choice(len(blocks) * BLOCK, min(batch_size, len(blocks) * BLOCK), replace=False)
        ids = blocks[place // BLOCK] * BLOCK + place % BLOCK
        counts.append(_distinct(kinds[ids[ids < len(kinds)]]))
    return float(np.mean(counts))


def _distinct(kinds: Integer[np.ndarray, " b"]) -> int:
    return len(np.unique(kinds[kinds >= 0]))
