"""``make_order``: the order that a run asks for, of whichever version."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.order.lane_order import LaneOrder
from eyespot.data_pipeline.order.sample_order import SHUFFLE_WINDOW, SampleOrder, num_blocks
from eyespot.data_pipeline.random_numbers import NUM_IDS


@runtime_checkable
class Order(Protocol):
    """Which sample stands at which position of the endless stream: a pure function of the seed and the position."""

    num_samples: int
    """Of the data set: positions of one epoch."""
    window: int
    """Samples that are shuffled together."""

    @property
    def identity(self) -> dict[str, int]:
        """What tells the order from another of as many samples and the same seed; empty where nobody asked for any."""
        ...

    def ids(self, start: int, count: int) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """The samples at positions start .. start + count - 1, and the epoch that each of them belongs to.

        Any thread may ask for any positions; those near the last ones cost least.
        """
        ...


def make_order(
    num_samples: int, seed: int, *, shuffle_window: int = SHUFFLE_WINDOW, lanes: int = 1, frame: int = 0
) -> Order:
    """The order of a run's samples.

    Args:
        num_samples: of the data set.
        seed: of the run.
        shuffle_window: samples that are shuffled together, in whole blocks; of each lane.
        lanes: 1 = version 1, which knows none.
        frame: positions that are dealt to the lanes, a multiple of them; nobody asks for it where there is one.

    Raises:
        UserError: there are more samples than have random numbers of their own.
        ValueError: the lanes do not divide the frame.
    """
    if num_samples > NUM_IDS:
        raise UserError(
            f"{num_samples:,} samples: random numbers are for ids below 2^32; pack them into folders of at most"
            f" {NUM_IDS:,}"
        )
    window = num_blocks(shuffle_window)
    if lanes == 1:
        return SampleOrder(num_samples, seed, window=window)
    return LaneOrder(num_samples, seed, lanes, frame, window=window)
