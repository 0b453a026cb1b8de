"""The order of a mixture: exact shares, no sample again before its source is through, any position at once."""

import numpy as np
import pytest

from eyespot.data_pipeline.loading.mixtures.mixed_order import MixedOrder, seed_of
from eyespot.data_pipeline.loading.mixtures.schedule import Schedule
from eyespot.data_pipeline.order.orders import make_order
from eyespot.data_pipeline.order.sample_order import SampleOrder

SIZES, TURNS = (600, 37, 2100), (7, 1, 3)
FIRST = np.cumsum([0, *SIZES])


def mixed(seed: int = 5, **options) -> MixedOrder:
    orders = [make_order(size, seed_of(seed, source), **options) for source, size in enumerate(SIZES)]
    return MixedOrder(orders, Schedule(TURNS))


@pytest.mark.parametrize("options", [{}, {"shuffle_window": 512}, {"lanes": 4, "frame": 16}])
def test_no_sample_comes_again_before_its_source_is_through(options):
    ids, passes = mixed(**options).ids(0, 9000)
    for source, size in enumerate(SIZES):
        own = (ids >= FIRST[source]) & (ids < FIRST[source + 1])
        seen, rounds = ids[own] - FIRST[source], passes[own]
        assert (rounds == np.arange(len(seen)) // size).all()
        for number in range(len(seen) // size):
            assert sorted(seen[rounds == number]) == list(range(size))
    assert passes.max() > 20  # of the small source


def test_any_position_is_found_at_once():
    order = mixed()
    ids, passes = order.ids(0, 3000)
    for start, count in ((0, 1), (1, 700), (999, 32), (2500, 500), (7, 0)):
        found = mixed().ids(start, count)
        assert (found[0] == ids[start : start + count]).all() and (found[1] == passes[start : start + count]).all()
    far = mixed().ids(10**12, 256)
    assert far[1].max() > 10**8 and (far[0] < FIRST[-1]).all()


def test_one_source_is_in_its_own_order():
    plain = SampleOrder(600, 9)
    alone = MixedOrder([make_order(600, seed_of(9, 0))], Schedule((1,)))
    for start in (0, 550, 12345):
        for one, other in zip(alone.ids(start, 300), plain.ids(start, 300), strict=True):
            assert (one == other).all()


def test_sources_of_one_size_are_in_different_orders():
    orders = [make_order(500, seed_of(3, source)) for source in range(3)]
    first, second, third = (order.ids(0, 500)[0] for order in orders)
    assert (first != second).any() and (second != third).any() and (first != third).any()


def test_counts_are_those_of_the_stream():
    order = mixed()
    ids, _ = order.ids(0, 5000)
    for end in (0, 1, 10, 11, 4999, 5000):
        expected = np.bincount(np.searchsorted(FIRST, ids[:end], side="right") - 1, minlength=3)
        assert (order.counts(end) == expected).all()
    assert order.num_samples == sum(SIZES) and order.sizes.tolist() == list(SIZES)


def test_a_state_tells_mixtures_apart():
    first = mixed().identity
    assert first == mixed(seed=6).identity  # the seed stands beside it
    orders = [make_order(size, 5) for size in SIZES]
    assert MixedOrder(orders, Schedule((7, 1, 4))).identity != first
    assert MixedOrder([*orders[:2], make_order(2000, 5)], Schedule(TURNS)).identity != first
    assert mixed(shuffle_window=512).identity == {**first, "shuffle_window": 512}
    assert MixedOrder(orders, Schedule(TURNS), {"lanes": 4, "frame": 16}).identity == {
        **first,
        "lanes": 4,
        "frame": 16,
    }
