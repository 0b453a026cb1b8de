import subprocess
import sys
from itertools import product
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from eyespot.eval.results.significance import (
    holm,
    mcnemar,
    mean_interval,
    paired_draws_interval,
    paired_interval,
    paired_t,
    sign_flip,
    welch,
    wilson,
)

RNG = np.random.default_rng


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_published(correct, total, low, high):
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_inside_0_1():
    low, high = wilson(29, 29)
    assert high == 1.0 and low == pytest.approx(1 - wilson(0, 29)[1])


def test_wilson_covers_the_true_proportion_as_often_as_it_says():
    draws = np.random.default_rng(0).binomial(200, 0.9, size=4000)
    covered = np.mean([low <= 0.9 <= high for low, high in (wilson(int(k), 200) for k in draws)])
    assert 0.93 < covered < 0.97


def test_wilson_of_no_samples_is_an_error():
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 6), (5, 5), (3, 12), (121, 59), (40, 31)])
def test_mcnemar_sums_the_outcomes_that_are_no_likelier(only_a, only_b):
    number = only_a + only_b
    likely = [comb(number, k) for k in range(number + 1)]
    expected = sum(ways for ways in likely if ways <= likely[only_a]) / 2**number
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_mcnemar_of_shuffled_pairs_is_uniform():
    rng = RNG(0)
    only_a = rng.binomial(1500, 0.5, size=2000)  # who of A and B was right alone, decided by a coin
    known = {k: mcnemar(int(k), 1500 - int(k)) for k in np.unique(only_a)}
    p_values = np.array([known[k] for k in only_a])
    for level in (0.05, 0.1, 0.3, 0.6):
        assert np.mean(p_values <= level) == pytest.approx(level, abs=4 * sqrt(level * (1 - level) / 2000) + 0.02)
        assert np.mean(p_values <= level) < level + 4 * sqrt(level * (1 - level) / 2000)


@pytest.mark.parametrize(("only_a", "only_b", "total"), [(0, 0, 30), (4, 1, 50), (30, 12, 359), (9, 9, 400), (7, 0, 7)])
def test_paired_interval_is_what_resampling_gives(only_a, only_b, total):
    weights = np.array([only_a + 0.5, only_b + 0.5, total - only_a - only_b + 1]) / (total + 2)
    drawn = RNG(1).choice([1, -1, 0], p=weights, size=(8_000, total)).mean(axis=1)
    assert paired_interval(only_a, only_b, total) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1.01 / total)


def test_paired_interval_by_hand():
    # three draws of +1, -1, 0 with probabilities 1.5/5, 0.5/5, 3/5
    chance = {1: 0.3, -1: 0.1, 0: 0.6}
    sums = dict.fromkeys(range(-3, 4), 0.0)
    for draw in product(chance, repeat=3):
        sums[sum(draw)] += np.prod([chance[step] for step in draw])
    below = np.cumsum(list(sums.values()))
    for confidence in (0.5, 0.8, 0.95):
        low, high = (next(k for k in range(7) if below[k] >= part) - 3 for part in _tails(confidence))
        assert paired_interval(1, 0, 3, confidence) == pytest.approx((low / 3, high / 3))


def _tails(confidence):
    return (1 - confidence) / 2, (1 + confidence) / 2


@pytest.mark.parametrize("shares", [(0.01, 0.005), (0.002, 0.002), (0.05, 0.03), (0.2, 0.05)])
@pytest.mark.parametrize("total", [100, 400])
def test_paired_interval_covers_the_true_difference(total, shares):
    drawn = RNG(2).multinomial(total, [*shares, 1 - sum(shares)], size=2000)
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    ends = [paired_interval(int(a), int(b), total) for a, b, _ in counts]
    true = shares[0] - shares[1]
    covered = np.average([low - 1e-9 <= true <= high + 1e-9 for low, high in ends], weights=times)
    assert covered > 0.93
    if min(shares) * total > 10:
        assert covered < 0.97


def test_paired_interval_mirrors_and_stays_in_range():
    low, high = paired_interval(30, 12, 300)
    assert paired_interval(12, 30, 300) == pytest.approx((-high, -low), abs=1.01 / 300)
    assert paired_interval(5, 0, 5)[1] == 1.0
    low, high = paired_interval(2000, 1800, 50_000)
    assert (low, high) == pytest.approx(0.004 + 1.96 * sqrt(0.076 / 50_000) * np.array([-1, 1]), abs=5e-5)


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_counts(counts):
    with pytest.raises(ValueError, match="not counts"):
        paired_interval(*counts)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2, 0.9, 0.001, 0.7]) == pytest.approx([0.6, 1.0, 0.004, 1.0])
    assert holm([]) == [] and holm([0.03]) == [0.03]


def test_holm_rejects_what_the_step_down_rule_rejects():
    for p_values in RNG(3).beta(0.3, 2, size=(200, 6)):
        rejected = set()
        for rank, place in enumerate(np.argsort(p_values)):
            if p_values[place] > 0.05 / (6 - rank):
                break
            rejected.add(int(place))
        assert {k for k, p in enumerate(holm(p_values.tolist())) if p <= 0.05} == rejected


def test_holm_calls_a_difference_falsely_in_one_of_twenty_families():
    families = RNG(4).uniform(size=(4000, 5))
    assert np.mean([min(holm(family.tolist())) <= 0.05 for family in families]) == pytest.approx(0.05, abs=0.012)


def test_t_interval():
    values = [0.81, 0.84, 0.8, 0.835]
    assert mean_interval(values) == pytest.approx(stats.t.interval(0.95, 3, np.mean(values), stats.sem(values)))
    draws = RNG(5).normal(3, 2, size=(2000, 4)).tolist()
    assert np.mean([low <= 3 <= high for low, high in map(mean_interval, draws)]) == pytest.approx(0.95, abs=0.016)
    with pytest.raises(ValueError, match="spread"):
        mean_interval([0.8])


def by_hand(mean, error, freedom, confidence):
    half = stats.t.ppf((1 + confidence) / 2, freedom) * error
    return 2 * stats.t.sf(abs(mean) / error, freedom), (mean - half, mean + half)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("number", [2, 3, 10])
def test_welch_is_its_formula(number, confidence):
    a, b = RNG(6).normal(0.8, 0.02, size=number).tolist(), RNG(7).normal(0.79, 0.1, size=4).tolist()
    for one, other in ((a, b), (b, a), (a, [0.7, 0.7])):
        errors = [np.var(each, ddof=1) / len(each) for each in (one, other)]
        freedom = sum(errors) ** 2 / sum(e**2 / (len(each) - 1) for e, each in zip(errors, (one, other), strict=True))
        p, interval = welch(one, other, confidence) or pytest.fail("no answer")
        expected = by_hand(np.mean(one) - np.mean(other), sqrt(sum(errors)), freedom, confidence)
        assert p == pytest.approx(expected[0], abs=1e-12) and interval == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("number", [2, 3, 10])
def test_paired_t_is_its_formula(number, confidence):
    a, b = RNG(8).normal(0.8, 0.02, size=(2, number))
    expected = by_hand(np.mean(a - b), np.std(a - b, ddof=1) / sqrt(number), number - 1, confidence)
    p, interval = paired_t(a.tolist(), b.tolist(), confidence) or pytest.fail("no answer")
    assert p == pytest.approx(expected[0], abs=1e-12) and interval == pytest.approx(expected[1], abs=1e-12)
    with pytest.raises(ValueError, match="not pairs"):
        paired_t([0.1], [0.1, 0.2])


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_is_its_formula(confidence):
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for total in (1, 7, 359, 50_000):
        for correct in {0, 1, total // 3, total - 1, total}:
            share = correct / total
            centre = (share + z * z / (2 * total)) / (1 + z * z / total)
            half = z / (1 + z * z / total) * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
            assert wilson(correct, total, confidence) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_who_only_reads_results_does_not_import_scipy():
    script = (
        "import sys, eyespot.eval.results.compare, eyespot.eval.results.result; sys.exit('scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.filterwarnings("error")
def test_without_spread_there_is_no_answer():
    assert welch([0.8], [0.7, 0.6]) is None and welch([0.8, 0.8], [0.7, 0.7]) is None
    assert paired_t([0.8], [0.7]) is None and paired_t([0.8, 0.9], [0.7, 0.8]) is None
    assert welch([0.8, 0.8], [0.7, 0.71]) is not None
    assert mean_interval([0.8, 0.8]) == pytest.approx((0.8, 0.8))


@pytest.mark.parametrize("differences", [[3, -1, 2, 0, 5, -2, 1, 1], [1, 1, 1, 1, -4], [0, 0, 0], [5]])
def test_sign_flip_counts_every_choice_of_signs(differences):
    values = np.array(differences)
    sums = np.array(list(product([1, -1], repeat=len(values)))) @ np.abs(values)
    assert sign_flip(values) == pytest.approx(np.mean(np.abs(sums) >= abs(values.sum())), abs=1e-12)
    assert sign_flip(-values) == pytest.approx(sign_flip(values), abs=1e-12)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (12, 3), (40, 31), (500, 430)])
def test_sign_flip_of_one_draw_is_mcnemar(only_a, only_b):
    assert sign_flip(np.repeat([1, -1, 0], [only_a, only_b, 50])) == pytest.approx(mcnemar(only_a, only_b), abs=1e-11)


def test_paired_draws_interval_is_the_bootstrap_over_samples():
    rng = RNG(0)
    differences = rng.integers(-2, 4, 200)
    low, high = paired_draws_interval(differences, 5)
    drawn = rng.choice([*differences, 0, 0], size=(20_000, 200)).sum(1) / 1000
    assert (low, high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.006)
    assert paired_draws_interval(-differences, 5) == pytest.approx((-high, -low), abs=0.0011)
    one = np.repeat([1, -1, 0], [12, 3, 85])
    assert paired_draws_interval(one, 1) == paired_interval(12, 3, 100)
    assert paired_draws_interval(5 * one, 5) == pytest.approx(paired_interval(12, 3, 100))  # the same in every draw
