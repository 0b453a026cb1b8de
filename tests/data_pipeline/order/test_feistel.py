"""A permutation without a table: every element once, at any size, and without a pattern."""

import time
import tracemalloc

import numpy as np
import pytest

from eyespot.data_pipeline.order.feistel import Feistel


def permuted(size: int, seed: int = 0, epoch: int = 0, stream: str = "test") -> np.ndarray:
    return Feistel(size, seed, epoch, stream)(np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 1000, 65_537])
def test_every_element_stands_at_one_place(size):
    assert sorted(permuted(size).tolist()) == list(range(size))


def test_seed_epoch_and_stream_each_make_another():
    found = [permuted(1000), permuted(1000, seed=1), permuted(1000, seed=2**32), permuted(1000, epoch=1)]
    found.append(permuted(1000, stream="other"))
    for one in range(5):
        for other in range(one):
            assert (found[one] == found[other]).sum() < 20  # one place is the same by chance


@pytest.mark.parametrize("count", [80, pytest.param(1000, marks=pytest.mark.thorough)])
def test_each_element_comes_first_equally_often(count):
    """And each pair follows each other: a chi-square over seeds, below its quantile of 1 - 1e-6."""
    drawn = np.array([permuted(5, seed=seed) for seed in range(count)])
    places = np.array([np.bincount(drawn[:, place], minlength=5) for place in range(5)])
    pairs = np.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25).reshape(5, 5)[~np.eye(5, dtype=bool)]
    for counts, quantile in ((places, 73.9), (pairs, 65.4)):
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < quantile


def test_neighbours_are_torn_apart():
    found = permuted(100_000).astype(float)
    assert abs(np.corrcoef(found, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.02


def test_an_entry_of_ten_billion_costs_what_one_of_ten_does():
    tracemalloc.start()
    begin = time.process_time()
    found = Feistel(10**10 + 1, 3, 5, "test")(np.array([0, 10**10]))
    seconds, (_, peak_bytes) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[0] != found[1] and found.min() >= 0 and found.max() <= 10**10
    assert seconds < 0.5 and peak_bytes < 1e6
