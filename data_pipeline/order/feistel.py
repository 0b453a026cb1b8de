"""A permutation without a table: any entry costs the same at ten elements as at ten billion.

A balanced Feistel network (Luby and Rackoff 1988, "How to construct pseudorandom permutations") on the next even power
of two, whose rounds draw from the project's own random numbers. What lands outside is sent through again until it is
inside (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): at most four times on average.
"""

import zlib

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.random_numbers import philox

ROUNDS = 8
"""Four make it a strong pseudorandom permutation; small halves need more."""


class Feistel:
    """A permutation of 0 .. size - 1, a pure function of (seed, epoch, stream)."""

    def __init__(self, size: int, seed: int, epoch: int, stream: str):
        """Describes it; computes nothing yet.

        Args:
            size: below 2^63.
            seed: of the run, 0 <= seed < 2^64.
            epoch: below 2^32.
            stream: a name; different names give independent permutations.
        """
        self._size = size
        self._half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        self._tags = (zlib.crc32(stream.encode()), epoch)

    def __call__(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """What stands at these places, each 0 .. size - 1."""
        found = self._once(places.astype(np.uint64))
        while (outside := found >= self._size).any():
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half, numbers & self._mask
        counter = np.empty((4, len(numbers)), np.uint32)
        counter[1], counter[2] = self._tags
        for number in range(ROUNDS):
            counter[0], counter[3] = right, number
            left, right = right, left ^ (philox(counter, self._key)[0].astype(np.uint64) & self._mask)
        return (left << self._half) | right
