"""Hashes that differ in few bits: all of them, at every radius, against a count of all pairs."""

import numpy as np
import pytest

from eyespot.eval.search import hamming
from eyespot.eval.search.hamming import near_hashes


@pytest.fixture(scope="module")
def hashes():
    """Random ones, and such that differ from them in 0 to 12 bits."""
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2**63, 400, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, 400, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.permutation(64)[: n % 13]) for n in range(400)]
    return left, np.concatenate([left ^ np.array(flips, np.uint64), left[:50]])


@pytest.mark.parametrize("radius", [0, 1, 3, 6, 8, 12, 16])
@pytest.mark.parametrize("at_once", [1, 2**20])
def test_all_pairs_within_the_radius(hashes, radius, at_once, monkeypatch):
    monkeypatch.setattr(hamming, "AT_ONCE", at_once)
    left, right = hashes
    distances = np.bitwise_count(left[:, None] ^ right)
    expected = {(a, b, int(distances[a, b])) for a, b in zip(*np.nonzero(distances <= radius), strict=True)}
    found = set()
    for pieces in near_hashes(left, right, radius):
        found |= set(zip(*(piece.tolist() for piece in pieces), strict=True))
    assert found == expected and len(found) > 25


@pytest.mark.parametrize(("left", "right"), [(0, 5), (5, 0), (0, 0)])
def test_none_on_a_side(left, right):
    assert not [a for a, *_ in near_hashes(np.zeros(left, np.uint64), np.zeros(right, np.uint64), 4) if len(a)]


def test_many_hashes_are_cut_into_few_wide_bands():
    assert len(hamming._bands(10**7, 10**7, 6)) < len(hamming._bands(10**3, 10**3, 6))
    for count in (10, 10**4, 10**7):
        bands = hamming._bands(count, count, 6)
        assert sum(width for _, width, _ in bands) == 64 and all(len(set(flips)) == len(flips) for *_, flips in bands)
