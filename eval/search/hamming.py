"""Pairs of 64-bit hashes that differ in few bits: exactly all of them, without comparing all with all.

Multi-index hashing (Norouzi et al. 2012, "Fast search in Hamming space with multi-index hashing"): the bits are cut
into m bands; two hashes within k bits of each other are within k // m bits in at least one band. So for each band, and
each way to flip so many of its bits, the hashes with equal bands are looked up in a sorted list. m is what costs least.
"""

import math
from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

BITS = 64
AT_ONCE = 2**20
"""Candidates whose bits are counted at once."""


def near_hashes(
    left: UInt64[np.ndarray, " n"], right: UInt64[np.ndarray, " m"], radius: int
) -> Iterator[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"], UInt8[np.ndarray, " p"]]]:
    """Places in left and right, and distances, of all pairs that differ in at most ``radius`` bits; some come twice.

    Args:
        left: hashes that are looked up.
        right: among which.
        radius: bits, 0..16.
    """
    if not len(left) or not len(right):
        return
    for low, width, flips in _bands(len(left), len(right), radius):
        mask = np.uint64((1 << width) - 1)
        keys = right >> np.uint64(low) & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        own = left >> np.uint64(low) & mask
        for flip in flips:
            wanted = own ^ np.uint64(flip)
            first = np.searchsorted(keys, wanted, side="left")
            counts = np.searchsorted(keys, wanted, side="right") - first
            for begin, end in _pieces(counts):
                sizes = counts[begin:end]
                a = np.repeat(np.arange(begin, end), sizes)
                inside = np.arange(len(a)) - np.repeat(sizes.cumsum() - sizes, sizes)
                b = order[np.repeat(first[begin:end], sizes) + inside]
                distance = np.bitwise_count(left[a] ^ right[b])
                near = distance <= radius
                yield a[near], b[near], distance[near]


def _pieces(counts: Int64[np.ndarray, " n"]) -> Iterator[tuple[int, int]]:
    """Ranges of queries with about ``AT_ONCE`` candidates each."""
    ends = counts.cumsum()
    begin, total = 0, 0
    while begin < len(counts) and ends[-1] > total:
        end = max(begin + 1, int(np.searchsorted(ends, total + AT_ONCE, side="right")))
        yield begin, end
        begin, total = end, int(ends[end - 1])


def _bands(num_left: int, num_right: int, radius: int) -> list[tuple[int, int, list[int]]]:
    """Of the cheapest cut into bands: the lowest bit of each, its width, and what is flipped in it."""

    def cost(count: int) -> float:
        width, near = BITS / count, radius // count
        probes = sum(math.comb(math.ceil(width), bits) for bits in range(near + 1))
        return count * probes * num_left * (math.log2(num_right + 2) * 4 + num_right / 2**width)

    count = min(range(1, radius + 2), key=cost)
    ends = [round(BITS * place / count) for place in range(count + 1)]
    bands = []
    for low, high in pairwise(ends):
        bits = range(high - low)
        flips = [
            sum(1 << bit for bit in chosen) for n in range(radius // count + 1) for chosen in combinations(bits, n)
        ]
        bands.append((low, high - low, flips))
    return bands
