"""How far an accuracy measured on a finite test set may lie from the true one."""

from math import sqrt
from statistics import NormalDist


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
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)
