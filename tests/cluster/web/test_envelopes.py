"""Few points, in which every spike of many is seen; and only what is new."""

import numpy as np
import pytest

from eyespot.cluster.web.envelopes import Series

INF = np.inf


def series_of(values, most=1 << 17) -> Series:
    series = Series(most)
    steps = np.arange(len(values), dtype=np.int64)
    for start in range(0, len(values), 97):  # as it grows
        series.extend(steps[start : start + 97], np.asarray(values[start : start + 97], np.float64))
    return series


def test_an_envelope_hides_no_spike_and_keeps_the_mean():
    values = np.random.default_rng(0).normal(size=10_000)
    values[1234], values[7777] = 50.0, -50.0
    found = series_of(values).envelope(100, -INF, INF, -INF)
    assert found.low is not None and found.high is not None and len(found.steps) <= 101
    assert found.high.max() == 50.0 and found.low.min() == -50.0
    starts = np.concatenate([[0], found.steps[:-1] + 1])
    slow = [values[a : b + 1] for a, b in zip(starts, found.steps, strict=True)]
    np.testing.assert_allclose(found.mean, [part.mean() for part in slow])
    np.testing.assert_array_equal(found.low, [part.min() for part in slow])
    np.testing.assert_array_equal(found.high, [part.max() for part in slow])


def test_few_points_are_the_values_themselves():
    found = series_of([3.0, 1.0, 2.0]).envelope(100, -INF, INF, -INF)
    assert found.mean.tolist() == [3.0, 1.0, 2.0] and found.low is None and found.replaces is None


def test_a_part_comes_with_its_neighbours():
    found = series_of(np.arange(100.0)).envelope(50, 10, 20, -INF)
    assert found.steps.tolist() == list(range(9, 22))


@pytest.mark.parametrize("most", [1 << 17, 512])
def test_what_is_new_joined_to_what_was_sent_is_the_whole(most):
    values = np.random.default_rng(1).normal(size=5000)
    series, kept, partial = Series(most), {}, 0
    for start in range(0, 5000, 61):
        merged = series.extend(np.arange(start, min(start + 61, 5000)), values[start : start + 61])
        found = series.envelope(64, -INF, INF, -INF if merged or not kept else max(kept))
        partial += found.replaces is not None
        kept = {} if found.replaces is None else {step: mean for step, mean in kept.items() if step < found.replaces}
        kept |= dict(zip(found.steps.tolist(), found.mean.tolist(), strict=True))
        whole = series.envelope(64, -INF, INF, -INF)
        assert kept == dict(zip(whole.steps.tolist(), whole.mean.tolist(), strict=True))
    assert partial > 40


def test_more_points_than_it_holds_are_put_together():
    values = np.random.default_rng(2).normal(size=10_000)
    values[5000] = 99.0
    series = series_of(values, most=1000)
    found = series.envelope(10_000, -INF, INF, -INF)
    assert 400 < len(series) <= 1000 and series.nbytes < 100_000
    assert (
        found.high is not None
        and found.high.max() == 99.0
        and found.mean.mean() == pytest.approx(values.mean(), abs=0.2)
    )


def test_what_is_not_finite_or_immense_is_counted_and_not_kept():
    series = series_of([1.0, np.nan, np.inf, -np.inf, 1e300, 2.0])
    assert series.means.tolist() == [1.0, 2.0] and series.num_broken == 4 and series.steps.tolist() == [0, 5]


def test_a_run_that_goes_back_is_cut():
    series = series_of(np.arange(10.0))
    series.cut(7)
    series.cut(100)
    assert series.steps.tolist() == list(range(7))


def test_nothing_is_an_envelope_too():
    found = Series().envelope(100, -INF, INF, -INF)
    assert len(found.steps) == len(found.mean) == 0
