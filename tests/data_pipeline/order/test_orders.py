"""make_order: one lane is the order that was, bit for bit; several are version 2."""

import hashlib

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.order.lane_order import LaneOrder
from eyespot.data_pipeline.order.orders import Order, make_order


@pytest.mark.parametrize(
    ("num_samples", "seed", "shuffle_window", "start", "count", "digest"),
    [
        (1438, 0, 2048, 0, 4000, "80bd5f2a6a049f24"),
        (50_001, 7, 512, 49_000, 3000, "ea28006187dd8d85"),
        (1_281_167, 2**40 + 3, 2048, 10**9, 5000, "ca996a9b2361a69c"),
    ],
)
def test_one_lane_is_the_order_before_there_were_others(num_samples, seed, shuffle_window, start, count, digest):
    order = make_order(num_samples, seed, shuffle_window=shuffle_window, lanes=1, frame=4096)
    ids, epochs = order.ids(start, count)
    found = hashlib.sha256(ids.astype("<i8").tobytes() + epochs.astype("<i8").tobytes()).hexdigest()
    assert found[:16] == digest
    assert order.identity == ({} if shuffle_window == 2048 else {"shuffle_window": 512})


def test_several_lanes_are_version_2():
    order = make_order(100_000, 3, shuffle_window=500, lanes=4, frame=64)
    assert isinstance(order, LaneOrder) and isinstance(order, Order)
    assert order.identity == {"shuffle_window": 512, "lanes": 4, "lane_frame": 64}
    assert order.ids(5, 900)[0].tolist() == LaneOrder(100_000, 3, 4, 64, window=2).ids(5, 900)[0].tolist()
    assert make_order(100_000, 3, lanes=4, frame=64).identity == {"lanes": 4, "lane_frame": 64}


@pytest.mark.parametrize("lanes", [1, 64])
def test_more_samples_than_there_are_random_numbers_for_are_refused(lanes):
    ids, _ = make_order(2**32, 0, lanes=2 * lanes, frame=128).ids(2**32 - 2, 4)
    assert len(set(ids[:2].tolist())) == 2 and ids.max() < 2**32
    with pytest.raises(UserError, match=r"4,294,967,297 samples: random numbers are for ids below 2\^32; pack them"):
        make_order(2**32 + 1, 0, lanes=lanes, frame=64)
