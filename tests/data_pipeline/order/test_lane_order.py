"""The order in lanes against a slow reference that lists whole epochs; who reads which blocks; cost at a billion."""

import hashlib
import time
import tracemalloc
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby

import numpy as np
import pytest

from eyespot.data_pipeline.order.feistel import Feistel
from eyespot.data_pipeline.order.lane_order import LaneOrder
from eyespot.data_pipeline.random_numbers import numbers_below, uniforms, words

SHAPES = [  # samples, lanes, frame, block, window
    (1, 4, 8, 4, 2),
    (5, 4, 8, 4, 2),
    (16, 4, 8, 4, 2),
    (17, 2, 2, 4, 1),
    (100, 3, 21, 4, 3),
    (1000, 4, 8, 4, 3),
    (1001, 5, 35, 4, 3),
    (999, 8, 2000, 4, 3),
    (255, 4, 4, 256, 8),
    (257, 4, 64, 256, 8),
    (3000, 16, 64, 256, 8),
]


def whole_epoch(num_samples: int, seed: int, epoch: int, lanes: int, frame: int, block: int, window: int) -> list[int]:
    """The definition, sample by sample."""
    whole, rest = divmod(num_samples, block)
    number = np.array([epoch]), np.array([0])
    blocks = Feistel(whole, seed, epoch, "order/blocks")(np.arange(whole)).tolist() if whole else []
    if rest:
        drawn = words(seed, *number, "order/rest", 1)[:, 0]
        blocks.insert(int(numbers_below(np.array([whole + 1]), drawn)[0]), whole)
    row = [
        (slot, sample)
        for slot, one in enumerate(blocks)
        for sample in range(one * block, min((one + 1) * block, num_samples))
    ]
    dealt = [(epoch * num_samples + place) % frame * lanes // frame for place in range(num_samples)]
    queues = {}
    for lane in range(lanes):
        piece, row = row[: dealt.count(lane)], row[dealt.count(lane) :]
        slots = [[sample for _, sample in part] for _, part in groupby(piece, key=lambda pair: pair[0])]
        count, queues[lane] = -(-len(slots) // window), []
        for part in range(count):
            some = list(chain(*slots[part * len(slots) // count : (part + 1) * len(slots) // count]))
            keys = uniforms(seed, number[0], np.array([part * lanes + lane]), "order/lanes", len(some))[0]
            queues[lane] += [sample for _, _, sample in sorted(zip(keys, range(len(some)), some, strict=True))]
    return [queues[lane].pop(0) for lane in dealt]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_slicing_gives_the_reference(shape):
    num_samples, lanes, frame, block, window = shape
    expected = list(chain(*(whole_epoch(num_samples, 3, epoch, lanes, frame, block, window) for epoch in range(3))))
    for count in (1 if num_samples < 200 else 31, 64, 3 * num_samples):
        order, found, epochs = LaneOrder(num_samples, 3, lanes, frame, block, window), [], []
        while len(found) < 3 * num_samples:
            ids, at = order.ids(len(found), count)
            assert ids.dtype == at.dtype == np.int64
            found, epochs = found + ids.tolist(), epochs + at.tolist()
        assert found[: 3 * num_samples] == expected
        assert epochs[: 3 * num_samples] == np.repeat([0, 1, 2], num_samples).tolist()


@pytest.mark.parametrize(("num_samples", "lanes", "frame"), [(70_001, 8, 4096), (50_000, 64, 64), (33_333, 7, 7000)])
def test_every_epoch_holds_every_sample_once_in_another_order(num_samples, lanes, frame):
    ids, epochs = LaneOrder(num_samples, 5, lanes, frame).ids(0, 3 * num_samples)
    for epoch in range(3):
        assert np.array_equal(np.sort(ids[epochs == epoch]), np.arange(num_samples))
    assert (ids[:num_samples] == ids[num_samples : 2 * num_samples]).mean() < 0.01
    assert (ids[:5000] == LaneOrder(num_samples, 6, lanes, frame).ids(0, 5000)[0]).mean() < 0.01


def test_the_order_does_not_depend_on_what_was_asked_before_or_by_whom():
    order = LaneOrder(40_000, 1, 16, 512)
    whole = order.ids(0, 120_000)[0]
    with ThreadPoolExecutor(4) as threads:
        starts = np.random.default_rng(0).integers(0, 119_000, 60).tolist()
        for start, (ids, _) in zip(starts, threads.map(lambda start: order.ids(start, 700), starts), strict=True):
            assert np.array_equal(ids, whole[start : start + 700])
    assert np.array_equal(LaneOrder(40_000, 1, 16, 512).ids(77_777, 300)[0], whole[77_777:78_077])


@pytest.mark.parametrize("nodes", [2, 8, 32])
def test_each_node_reads_blocks_of_its_own(nodes):
    """In slices of a micro-batch, as ranks take them: only where lanes meet are blocks read by two."""
    num_samples, frame = 200_000, 1024
    ids = LaneOrder(num_samples, 0, 32, frame).ids(0, num_samples)[0]
    node = np.arange(num_samples) % frame * nodes // frame
    readers = defaultdict(set)
    for block, reader in set(zip((ids // 256).tolist(), node.tolist(), strict=True)):
        readers[block].add(reader)
    assert sum(len(who) - 1 for who in readers.values()) <= nodes - 1
    assert max(len(who) for who in readers.values()) <= 2


def test_a_lane_reads_one_window_after_the_other():
    order = LaneOrder(100_000, 0, 8, 256)
    ids = order.ids(0, 100_000)[0]
    for lane in range(8):
        blocks = ids[np.arange(100_000) % 256 // 32 == lane] // 256
        seen = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
        assert max(places[-1] - places[0] for places in seen) < order.window
        first = np.sort([places[0] for places in seen])
        assert max(len(np.unique(blocks[at : at + 64])) for at in first) <= 2 * 8


def test_a_billion_samples_are_found_in_milliseconds():
    order = LaneOrder(10**9, 0, 64, 4096)
    order.ids(0, 64)  # imports, tables of the processor
    tracemalloc.start()
    begin = time.process_time()
    ids, epochs = order.ids(2_123_456_789, 4096)
    seconds, (_, peak_bytes) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(ids)) == 4096 and len(np.unique(ids // 10**8)) == 10
    assert set(epochs.tolist()) == {2}
    assert seconds < 0.5 and peak_bytes < 20e6


def test_the_bits_of_version_2_stay():
    """What runs have begun with: a change is a version 3."""
    digests = []
    for samples, seed, lanes, frame, start, count in (
        (1438, 0, 4, 32, 0, 4000),
        (10**9 + 7, 2**40 + 3, 64, 4096, 10**11, 3000),
    ):
        ids, epochs = LaneOrder(samples, seed, lanes, frame).ids(start, count)
        digests.append(hashlib.sha256(ids.tobytes() + epochs.tobytes()).hexdigest()[:16])
    assert digests == ["7be899044f18fc7f", "01e4b6cbcfd3808c"]


@pytest.mark.parametrize(("lanes", "frame"), [(3, 10), (4, 0), (0, 8)])
def test_lanes_divide_the_frame(lanes, frame):
    with pytest.raises(ValueError, match="do not divide"):
        LaneOrder(100, 0, lanes, frame)
