"""The order of samples of a mixture: whose turn it is, and where that source stands in an order of its own.

A pure function of (seed, position), as every order is: the state of a run is one number, and goes on with any number of
ranks. A source's order knows nothing of the others, so none of its samples comes again before all of them have come.
"""

import json
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.loading.mixtures.schedule import Schedule
from eyespot.data_pipeline.order.orders import Order
from eyespot.data_pipeline.random_numbers import words

FARTHEST = 2**16
"""Who reads ahead holds what comes: sources that come more seldom are read in smaller pieces."""


class MixedOrder:
    """Which sample stands at which position of the endless stream.

    Args:
        orders: of each source, of its own samples, which are counted from 0.
        schedule: whose turn it is.
        lanes: what a state says of them.
    """

    num_samples: int
    """Of all sources."""
    window: int
    """Positions in which every source comes through one of its own windows; no more than ``FARTHEST``."""

    def __init__(self, orders: Sequence[Order], schedule: Schedule, lanes: Mapping[str, int] | None = None) -> None:
        self._orders, self._schedule, self._lanes = orders, schedule, dict(lanes or {})
        self.sizes = np.array([order.num_samples for order in orders])
        """Samples of each source."""
        self._first = np.cumsum(self.sizes) - self.sizes
        self.num_samples = int(self.sizes.sum())
        windows = np.array([order.window for order in orders]) * schedule.period // schedule.turns
        self.window = min(int(windows.max()), FARTHEST)

    def ids(self, start: int, count: int) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """The samples at positions start .. start + count - 1, those of all sources counted one after another.

        Returns:
            The samples, and how often the source of each had been gone through before.
        """
        sources, turns = self._schedule.at(start, count)
        ids, passes = np.empty(count, np.int64), np.empty(count, np.int64)
        for source in np.unique(sources).tolist():
            (places,) = np.nonzero(sources == source)
            found, passes[places] = self._orders[source].ids(int(turns[places[0]]), len(places))  # one after another
            ids[places] = self._first[source] + found
        return ids, passes

    @property
    def identity(self) -> dict[str, int]:
        """What a state says of it: a digest of the proportions and of how many samples each source has."""
        known = json.dumps([self._schedule.turns.tolist(), self.sizes.tolist()])
        windows = [order.window for order in self._orders if "shuffle_window" in order.identity]
        window = {"shuffle_window": max(windows)} if windows else {}
        return {"mixture": zlib.crc32(known.encode()), **window, **self._lanes}

    def counts(self, end: int) -> Int64[np.ndarray, " sources"]:
        """How many of the first ``end`` positions are each source's."""
        return self._schedule.counts(end)


def seed_of(seed: int, source: int) -> int:
    """What the order of that source is drawn by; the first's is the run's, as where there are no others."""
    if source == 0:
        return seed
    high, low = words(seed, np.zeros(1, np.int64), np.array([source]), "mixture/order", 2)[0].tolist()
    return high << 32 | low
