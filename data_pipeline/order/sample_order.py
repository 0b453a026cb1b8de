"""The order in which samples come: a pure function of (seed, epoch, position), the same for any number of ranks.

The stream is one endless sequence. Position p belongs to epoch p // num_samples; inside an epoch each sample comes
once. Blocks of neighbouring samples are permuted, then samples are shuffled inside windows of a few blocks: reads stay
close to sequential, and only the windows in use are ever computed, so 14 million samples cost no more than a thousand.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.random_numbers import uniforms

BLOCK = 256
"""Samples that lie side by side in the shards and are read in the same window."""
WINDOW = 8
"""Blocks that are shuffled together, where nobody says otherwise."""
SHUFFLE_WINDOW = WINDOW * BLOCK
"""The samples in them."""


def num_blocks(samples: int) -> int:
    """The blocks that hold so many samples."""
    return -(-samples // BLOCK)


class SampleOrder:
    """Which sample stands at which position of the endless stream."""

    window: int
    """Samples that are shuffled together."""

    def __init__(self, num_samples: int, seed: int, block: int = BLOCK, window: int = WINDOW):
        """Describes the stream; computes nothing yet.

        Args:
            num_samples: of the data set.
            seed: of the run.
            block: samples that lie side by side in the shards and are read in the same window.
            window: blocks that are shuffled together; more than there are is all.
        """
        self.num_samples = num_samples
        self._seed = seed
        self._block = block
        self._window = max(1, min(window, -(-num_samples // block)))
        self.window = self._window * block
        self._blocks = lru_cache(maxsize=2)(self._draw_blocks)
        self._samples = lru_cache(maxsize=4)(self._draw_samples)

    @property
    def identity(self) -> dict[str, int]:
        """What a state says of it: the window, where it is not the usual one."""
        usual = max(1, min(WINDOW, -(-self.num_samples // self._block))) * self._block
        return {} if self.window == usual else {"shuffle_window": self.window}

    def ids(self, start: int, count: int) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """The samples at positions start .. start + count - 1, and the epoch that each of them belongs to."""
        ids, epochs = np.empty(count, np.int64), np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, position = divmod(start + done, self.num_samples)
            _, starts = self._blocks(epoch)
            window = int(np.searchsorted(starts, position, side="right")) - 1
            samples = self._samples(epoch, window)[position - int(starts[window]) :][: count - done]
            ids[done : done + len(samples)] = samples
            epochs[done : done + len(samples)] = epoch
            done += len(samples)
        return ids, epochs

    def _draw_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order of blocks, and the position at which each window starts."""
        num_blocks = -(-self.num_samples // self._block)
        blocks = self._permutation(epoch, 0, "order/blocks", num_blocks)
        lengths = np.minimum(self._block, self.num_samples - blocks * self._block)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])[:: self._window]
        return blocks, starts

    def _draw_samples(self, epoch: int, window: int) -> np.ndarray:
        """The samples of one window, in the order in which they come."""
        blocks = self._blocks(epoch)[0][window * self._window : (window + 1) * self._window]
        samples = (blocks[:, None] * self._block + np.arange(self._block)).ravel()
        samples = samples[samples < self.num_samples]
        return samples[self._permutation(epoch, window, "order/samples", len(samples))]

    def _permutation(self, epoch: int, row: int, stream: str, count: int) -> np.ndarray:
        """Sorts by the project's own random numbers: NumPy may change its shuffles between versions."""
        keys = uniforms(self._seed, np.array([epoch]), np.array([row]), stream, count)[0]
        return np.argsort(keys, kind="stable")
