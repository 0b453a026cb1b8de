"""The order of samples in lanes, version 2: so that each node reads blocks of its own.

One order shuffles windows of neighbouring blocks, and a micro-batch is a piece of one window: all nodes read the same
blocks. Here a micro-batch takes as many samples from each of a fixed number of lanes, and a window lies inside a lane.
A rank's slice of the micro-batch is some of the lanes, always the same, whose blocks no other rank reads.

Position p of the stream belongs to lane (p mod frame) * lanes // frame. An epoch has so many positions of each lane,
which gets so many samples: all blocks in a random order are one row, and the lanes cut it into pieces of these lengths.
So nothing is left over at an epoch's end; where the row is cut, two lanes share a block. The order is the same for any
number of ranks: lanes decide which rank reads what, and how fast that is, not what is learned from.
"""

import threading
from collections import OrderedDict
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.order.feistel import Feistel
from eyespot.data_pipeline.order.sample_order import BLOCK, WINDOW, SampleOrder
from eyespot.data_pipeline.random_numbers import numbers_below, uniforms, words

AT_ONCE = 2**17
"""Samples whose places in their windows are drawn in one go: some MB of random numbers."""
KEPT = 4
"""Windows that are kept for each that one call needs: those in use, those that follow, and those of who reads ahead."""


class LaneOrder:
    """Which sample stands at which position of the endless stream, with lanes."""

    window: int
    """Samples of a lane that are shuffled together."""

    def __init__(self, num_samples: int, seed: int, lanes: int, frame: int, block: int = BLOCK, window: int = WINDOW):
        """Describes the stream; computes nothing yet.

        Args:
            num_samples: of the data set.
            seed: of the run.
            lanes: parts of a frame that have blocks of their own.
            frame: positions that are dealt to the lanes: a micro-batch over all ranks; a multiple of the lanes.
            block: samples that lie side by side in the shards and are read in the same window.
            window: blocks of a lane that are shuffled together; more than there are is all.

        Raises:
            ValueError: the lanes do not divide the frame.
        """
        if lanes < 1 or frame < 1 or frame % lanes:
            raise ValueError(f"{lanes} lanes do not divide a frame of {frame}")
        self.num_samples = num_samples
        self._seed, self._lanes, self._frame, self._block = seed, lanes, frame, block
        self._one_lane = SampleOrder(num_samples, seed, block, window)
        self.window = self._one_lane.window
        self._window = self.window // block
        self._epoch = lru_cache(maxsize=2)(self._describe)
        self._kept = OrderedDict[tuple[int, int], tuple[int, np.ndarray]]()
        self._lock = threading.Lock()
        """Several threads may ask: who reads ahead, and who makes batches."""

    @property
    def identity(self) -> dict[str, int]:
        """What a state says of it."""
        return {**self._one_lane.identity, "lanes": self._lanes, "lane_frame": self._frame}

    def ids(self, start: int, count: int) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """The samples at positions start .. start + count - 1, and the epoch that each of them belongs to."""
        ids, epochs = np.empty(count, np.int64), np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, place = divmod(start + done, self.num_samples)
            end = done + min(count - done, self.num_samples - place)
            ids[done:end] = self._in_epoch(epoch, start + np.arange(done, end))
            epochs[done:end] = epoch
            done = end
        return ids, epochs

    def _in_epoch(self, epoch: int, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        deal = self._epoch(epoch)
        lanes = positions % self._frame // (self._frame // self._lanes)
        places = deal.first[lanes] + self._of_lane(positions, lanes) - deal.before[lanes]
        windows = deal.window_of(places, lanes)
        keys, which = np.unique(windows * self._lanes + lanes, return_inverse=True)
        members = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
        ids, step = np.empty(len(positions), np.int64), max(1, AT_ONCE // self.window)
        with self._lock:
            for begin in range(0, len(members), step):
                drawn = self._windows(epoch, keys[begin : begin + step])
                for (first, samples), its in zip(drawn, members[begin : begin + step], strict=True):
                    ids[its] = samples[places[its] - first]
                while len(self._kept) > KEPT * min(len(members), self._lanes):
                    self._kept.popitem(last=False)
        return ids

    def _of_lane(self, position: int | np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """How many of a lane's positions lie before a position of the stream."""
        share = self._frame // self._lanes
        return position // self._frame * share + np.clip(position % self._frame - lanes * share, 0, share)

    def _describe(self, epoch: int) -> "_Deal":
        lanes, row = np.arange(self._lanes), _Row(self.num_samples, self._block, self._seed, epoch)
        before, after = (self._of_lane(end * self.num_samples, lanes) for end in (epoch, epoch + 1))
        return _Deal(row, before, after, self._window)

    def _windows(self, epoch: int, keys: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """For each, window * lanes + lane: its first place in the epoch's row, and its samples as they come."""
        wanted = [(epoch, key) for key in keys.tolist()]
        missing = [number for number, key in enumerate(wanted) if key not in self._kept]
        if missing:
            drawn = self._draw(epoch, keys[missing])
            self._kept.update(zip((wanted[number] for number in missing), drawn, strict=True))
        for key in wanted:
            self._kept.move_to_end(key)
        return [self._kept[key] for key in wanted]

    def _draw(self, epoch: int, keys: np.ndarray) -> list[tuple[int, np.ndarray]]:
        deal, (windows, lanes) = self._epoch(epoch), np.divmod(keys, self._lanes)
        slots, first, lengths = deal.window(windows, lanes)
        drawn = uniforms(self._seed, np.full(len(keys), epoch), keys, "order/lanes", int(lengths.max()))
        drawn[np.arange(drawn.shape[1]) >= lengths[:, None]] = 2.0  # behind all that are there
        places = first[:, None] + np.argsort(drawn, axis=1, kind="stable")
        samples = deal.row.samples(places, slots, self._window)
        return [(at, found[:length]) for at, found, length in zip(first.tolist(), samples, lengths, strict=True)]


class _Deal:
    """How an epoch's row of samples is dealt: of each lane, its piece of the row and the windows that this has.

    The windows of a lane are as equal as blocks allow: a small one at the end would mix little, of all lanes at once.
    """

    first: Int64[np.ndarray, " lanes"]
    """Place in the row at which each piece begins."""
    before: Int64[np.ndarray, " lanes"]
    """Positions that each lane had in all epochs before."""

    def __init__(self, row: "_Row", before: np.ndarray, after: np.ndarray, window: int):
        self.row, self.before = row, before
        end = np.cumsum(after - before)
        self.first = end - (after - before)
        self._end, self._slot = end, row.slot(self.first)
        self._slots = np.maximum(1, row.slot(end - 1) - self._slot + 1)
        self._windows = -(-self._slots // window)

    def window_of(self, places: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The number, in its lane, of the window that a place of the row lies in."""
        passed = self.row.slot(places) - self._slot[lanes] + 1
        return (passed * self._windows[lanes] - 1) // self._slots[lanes]

    def window(self, numbers: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of windows: the first slot, the first place in the row, and the samples."""
        slots, end = (
            self._slot[lanes] + number * self._slots[lanes] // self._windows[lanes] for number in (numbers, numbers + 1)
        )
        first = np.maximum(self.first[lanes], self.row.start(slots))
        return slots, first, np.minimum(self._end[lanes], self.row.start(end)) - first


class _Row:
    """All samples of an epoch side by side, block after block in a random order: the row that lanes are cut from.

    The blocks stand in slots. Only the last block of the data set may be shorter than the others; its slot is drawn,
    and the others are permuted around it.
    """

    def __init__(self, num_samples: int, block: int, seed: int, epoch: int):
        self._block, (self._full, self._rest) = block, divmod(num_samples, block)
        drawn = words(seed, np.array([epoch]), np.array([0]), "order/rest", 1)[:, 0]
        self._short = int(numbers_below(np.array([self._full + 1]), drawn)[0]) if self._rest else self._full
        self._permuted = Feistel(self._full, seed, epoch, "order/blocks")

    def slot(self, places: np.ndarray) -> np.ndarray:
        """The slot that a place of the row lies in; that behind the last, of the place behind the last."""
        after = places >= self._short * self._block + self._rest
        return np.where(after, (places - self._rest) // self._block + 1, np.minimum(places // self._block, self._short))

    def start(self, slots: np.ndarray) -> np.ndarray:
        """The first place of a slot; of one behind the last, at least the number of samples."""
        return slots * self._block - (slots > self._short) * (self._block - self._rest)

    def samples(self, places: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
        """(n, m) samples at places of the row, each line in ``count`` slots from its ``first`` on."""
        slots = np.clip(first[:, None] + np.arange(count), 0, max(0, self._full - (self._rest == 0)))
        long = np.clip(slots - (slots > self._short), 0, self._full - 1)
        blocks = self._permuted(long.ravel()).reshape(slots.shape) if self._full else np.zeros_like(slots)
        blocks[(slots == self._short) & (self._rest > 0)] = self._full
        at = self.slot(places)
        chosen = np.take_along_axis(blocks, np.clip(at - first[:, None], 0, count - 1), axis=1)
        return chosen * self._block + places - self.start(at)
