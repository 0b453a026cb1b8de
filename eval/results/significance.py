"""Whether one accuracy is really better than another: over test samples, and over training seeds.

scipy.stats takes a second to import, and who only reads results has no need of it: each function imports it by itself.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int


def wilson(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): valid also near 0 and 1 and for small sets.

    Args:
        correct: how many of the test samples were right.
        total: size of the test set, at least 1.
        confidence: probability with which the interval covers the true proportion.

    Returns:
        Lower and upper end, both in 0..1.

    Raises:
        ValueError: not 0 <= correct <= total, or an empty set.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is not a proportion")
    from scipy import stats

    interval = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test (McNemar 1947) that A and B are right equally often.

    The samples on which both are right or both are wrong say nothing about which is better; of the others, each falls
    to either side with probability 1/2 where there is no difference. Exact, hence slightly conservative.

    Args:
        only_a: number of test samples that only A has right.
        only_b: number of test samples that only B has right.
    """
    from scipy import stats

    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_interval(only_a: int, only_b: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Paired bootstrap interval of accuracy(A) - accuracy(B) on the same test samples.

    Resampling the pairs is drawing ``total`` times from {A alone right, B alone right, no difference}, so the
    distribution of all resamples is known: it is computed (by Fourier transform) instead of drawn, and nothing needs a
    seed. Its percentiles are the interval. Half a sample is added to each of the four cells first, as Agresti and Min
    (2005) do: where A and B differ on a handful of samples, plain percentiles and BCa cover far less than they promise
    (0.62 and 0.59 instead of 0.95, where A alone is right on 1 % and B alone on 0.5 % of 100 samples), and where they
    differ on none, both shrink to a point.

    Args:
        only_a: number of test samples that only A has right.
        only_b: number of test samples that only B has right.
        total: number of test samples.
        confidence: probability with which the interval covers the true difference.

    Returns:
        Lower and upper end, both in -1..1.

    Raises:
        ValueError: the counts do not fit ``total``.
    """
    if total < 1 or min(only_a, only_b) < 0 or only_a + only_b > total:
        raise ValueError(f"{only_a} and {only_b} of {total} are not counts of test samples")
    both = total - only_a - only_b
    differences = np.repeat([1, -1, 0], [only_a, only_b, both])
    return paired_draws_interval(differences, 1, confidence)


def sign_flip(differences: Int[np.ndarray, " m"]) -> float:
    """Exact two-sided p that A and B do equally well on the test samples, where each sample has a difference.

    Fisher's randomisation test: with nothing between them each difference could as well have the other sign, and all
    choices of signs are equally likely. Their sums are counted by Fourier transform. Of differences of +1 and -1 it is
    McNemar's test.

    Args:
        differences: of each test sample: of how many draws A has it right, minus the same of B.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    most = int(sizes @ counts)
    angles = 2 * np.pi * np.arange(2 * most + 1) / (2 * most + 1)
    chances = np.fft.fft(np.prod(np.cos(np.outer(sizes, angles)) ** counts[:, None], axis=0)).real / (2 * most + 1)
    sums = np.abs(np.fft.fftfreq(2 * most + 1, 1 / (2 * most + 1)).round())
    return float(chances.clip(0)[sums >= abs(int(differences.sum()))].sum().clip(0, 1))


def paired_draws_interval(
    differences: Int[np.ndarray, " m"], num_draws: int, confidence: float = 0.95
) -> tuple[float, float]:
    """`paired_interval` where each test sample was answered several times: resamples the test samples.

    Args:
        differences: of each test sample: of how many draws A has it right, minus the same of B.
        num_draws: how often each was answered.
        confidence: probability with which the interval covers the true difference.

    Returns:
        Lower and upper end, both in -1..1.
    """
    total, span = len(differences), 2 * num_draws + 1
    cells = np.bincount(differences + num_draws, minlength=span).astype(float)
    cells[[0, -1]] += 0.5  # half a sample to each of four cells, as Agresti and Min do
    cells[num_draws] += 1
    sums = np.cumsum(_resampled(cells / (total + 2), total))
    low, high = np.searchsorted(sums, [(1 - confidence) / 2, (1 + confidence) / 2])
    most = num_draws * total
    return (int(low) - most) / most, (int(high) - most) / most


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the given order.

    Calling those up to 0.05 differences, the probability of one false call or more among all is at most 0.05, whether
    or not the comparisons depend on each other.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's t-interval of the mean of independent values, such as the accuracies of several seeds.

    Raises:
        ValueError: fewer than two values: their spread is unknown.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} value: the spread of one is unknown")
    from scipy import stats

    if np.ptp(values) == 0:
        return float(np.mean(values)), float(np.mean(values))
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    return float(low), float(high)


def welch(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> tuple[float, tuple[float, float]] | None:
    """Welch's t-test (Welch 1947) of two independent groups whose spreads may differ.

    Returns:
        Two-sided p and the interval of mean(a) - mean(b); None where the spread is unknown: fewer than two values in a
        group, or no spread at all.
    """
    if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
        return None
    from scipy import stats

    with warnings.catch_warnings():  # scipy warns of a group without spread
        warnings.simplefilter("ignore", RuntimeWarning)
        return _answer(stats.ttest_ind(a, b, equal_var=False), confidence)


def paired_t(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> tuple[float, tuple[float, float]] | None:
    """Student's t-test of pairs, such as the accuracies of two methods by seed: ``a[i]`` belongs to ``b[i]``.

    Returns:
        Two-sided p and the interval of mean(a - b); None where the spread is unknown: fewer than two pairs, or the same
        difference in all of them.

    Raises:
        ValueError: ``a`` and ``b`` differ in length.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are not pairs")
    if len(a) < 2 or np.ptp(np.subtract(a, b)) < 1e-12:
        return None
    from scipy import stats

    return _answer(stats.ttest_rel(a, b), confidence)


def _resampled(chances: Float[np.ndarray, " cells"], total: int) -> Float[np.ndarray, " outcomes"]:
    """Probabilities of each sum of ``total`` draws from -k..k, smallest first; ``chances`` are those of one draw."""
    most = len(chances) // 2
    outcomes = 2 * most * total + 1
    wave = np.exp(2j * np.pi * np.arange(outcomes) / outcomes)
    one = sum(chance * wave**value for value, chance in enumerate(chances, -most))
    return np.roll(np.fft.fft(one**total).real / outcomes, most * total).clip(0)


def _answer(test: Any, confidence: float) -> tuple[float, tuple[float, float]]:
    """Of one of scipy's tests: two-sided p that the difference is 0, and its interval."""
    low, high = test.confidence_interval(confidence)
    return float(test.pvalue), (float(low), float(high))
