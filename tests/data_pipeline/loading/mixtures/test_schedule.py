"""Whose turn it is: within one sample of the share at every position, and found at any position at once."""

import time
from fractions import Fraction

import numpy as np
import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.schedule import LONGEST_PERIOD, Schedule, turns_of


def counts_after(sources: np.ndarray, num_sources: int) -> np.ndarray:
    """(n, sources): one by one, how often each source has come after each position."""
    found, so_far = np.empty((len(sources), num_sources), np.int64), [0] * num_sources
    for place, source in enumerate(sources.tolist()):
        so_far[source] += 1
        found[place] = so_far
    return found


@pytest.mark.parametrize("num_sources", range(2, 21))
def test_every_prefix_is_within_one_sample_of_every_share(num_sources):
    for largest in (9, 60, 700):
        weights = [Fraction(weight) for weight in np.random.randint(1, largest + 1, num_sources).tolist()]  # noqa: NPY002
        turns = turns_of(weights, list("abcdefghijklmnopqrst"[:num_sources]))
        schedule = Schedule(turns)
        counts = counts_after(schedule.at(0, 2 * schedule.period + 1)[0], num_sources)
        places = np.arange(1, len(counts) + 1)[:, None]
        off_by = np.abs(counts * schedule.period - places * np.array(turns))  # in parts of a period: exact
        assert off_by.max() < schedule.period, weights
        assert (counts[schedule.period - 1] == turns).all()


def test_the_hardest_known_shares_stay_within_one_sample():
    """A large source beside many that come seldom: what rounding each source's own count gets wrong."""
    for turns in [(97, 1, 1, 1), (1,) * 20, (50, 49, 1), (501, 333, 1, 1, 1, 1, 1, 1), (997, 2, 1)]:
        schedule = Schedule(turns)
        counts = counts_after(schedule.at(0, schedule.period)[0], len(turns))
        places = np.arange(1, len(counts) + 1)[:, None]
        assert np.abs(counts * schedule.period - places * np.array(turns)).max() < schedule.period


def test_any_position_is_found_at_once():
    schedule = Schedule((7, 2, 3))
    sources, turns = schedule.at(0, 200)
    counts = counts_after(sources, 3)
    assert (turns == counts[np.arange(200), sources] - 1).all()
    for start in (0, 1, 11, 12, 13, 59, 144):
        found = schedule.at(start, 30)
        assert (found[0] == sources[start : start + 30]).all() and (found[1] == turns[start : start + 30]).all()
        assert (schedule.counts(start) == (counts[start - 1] if start else 0)).all()
    far = 12 * 10**9  # whole periods
    assert (schedule.at(far, 12)[0] == sources[:12]).all() and schedule.counts(far).tolist() == [
        7 * 10**9,
        2 * 10**9,
        3 * 10**9,
    ]
    begun = time.process_time()
    for _ in range(100):
        schedule.at(far, 256)
    assert time.process_time() - begun < 1


def test_shares_are_whole_parts_of_the_shortest_period():
    halves = [Fraction("0.7"), Fraction("0.25"), Fraction("0.05")]
    assert turns_of(halves, "abc") == (14, 5, 1)
    assert turns_of([Fraction(1_000_000), Fraction(3_000_000)], "ab") == (1, 3)
    assert turns_of([Fraction(5)], "a") == (1,)


def test_finer_shares_are_rounded_to_the_longest_period():
    weights = [Fraction(weight) for weight in (1_281_167, 14_197_122, 1_803_460, 300)]
    turns = turns_of(weights, "abcd")
    exact = [float(weight / sum(weights)) for weight in weights]
    assert sum(turns) <= LONGEST_PERIOD
    assert np.abs(np.array(turns) / sum(turns) - exact).max() <= 1 / LONGEST_PERIOD


def test_a_source_that_would_never_come_is_refused():
    with pytest.raises(UserError, match=r"^b: less than one of 262,144 samples would be its; raise its weight"):
        turns_of([Fraction(10**7 + 1), Fraction(1)], ["a", "b"])
