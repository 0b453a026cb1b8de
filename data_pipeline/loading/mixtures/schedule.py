"""Whose turn it is: the source of each position of a mixed stream, in exact proportions from the first position on.

After n positions, source i of share w_i has had its turn floor(w_i n) or ceil(w_i n) times, whatever n is, so it is
never a whole sample away from w_i n. That is a fair schedule of unit jobs on one machine (Liu and Layland 1973; for
shares, Baruah et al. 1996, "Proportionate progress"): the j-th turn of source i may not come before position
floor(j / w_i), and must have come before position ceil((j + 1) / w_i). Of the sources that may come, the one whose
deadline is nearest does; as the shares add up to 1, nobody ever misses one.

Shares are whole numbers of a period, at whose end all counts are exact and the schedule begins anew. So a table of one
period answers every question about a position, however far on.
"""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.errors import UserError

LONGEST_PERIOD = 2**18
"""Positions of a table: a third of a second, and 1.5 MB. Finer shares are rounded to whole parts of it."""


def turns_of(weights: Sequence[Fraction], names: Sequence[str]) -> tuple[int, ...]:
    """How often each source comes in one period: the weights as whole numbers without a common divisor.

    Weights that would take a longer period than ``LONGEST_PERIOD`` are rounded to parts of that.

    Args:
        weights: above 0, of any sum.
        names: of the sources, for the error.

    Raises:
        UserError: a source would come less than once.
    """
    total = sum(weights, Fraction(0))
    shares = [weight / total for weight in weights]
    if (period := math.lcm(*(share.denominator for share in shares))) <= LONGEST_PERIOD:
        return tuple(int(share * period) for share in shares)
    turns = [math.floor(share * LONGEST_PERIOD) for share in shares]
    rest = [share * LONGEST_PERIOD - turn for share, turn in zip(shares, turns, strict=True)]
    for place in sorted(range(len(rest)), key=lambda place: -rest[place])[: LONGEST_PERIOD - sum(turns)]:
        turns[place] += 1
    if 0 in turns:
        raise UserError(
            f"{names[turns.index(0)]}: less than one of {LONGEST_PERIOD:,} samples would be its; raise its weight, or"
            " leave it out"
        )
    divisor = math.gcd(*turns)
    return tuple(turn // divisor for turn in turns)


class Schedule:
    """The endless sequence of sources.

    Args:
        turns: of each source in one period, at least 1.
    """

    def __init__(self, turns: tuple[int, ...]) -> None:
        self.turns, self.period = np.array(turns, np.int64), sum(turns)
        self._source, self._nth = _table(turns)

    def at(self, start: int, count: int) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """Of positions start .. start + count - 1 the source, and how many turns it has had before."""
        rounds, places = np.divmod(np.arange(start, start + count, dtype=np.int64), self.period)
        sources = self._source[places].astype(np.int64)
        return sources, rounds * self.turns[sources] + self._nth[places]

    def counts(self, end: int) -> Int64[np.ndarray, " sources"]:
        """How many of the first ``end`` positions are each source's."""
        rounds, place = divmod(end, self.period)
        return rounds * self.turns + np.bincount(self._source[:place], minlength=len(self.turns))


@lru_cache(maxsize=4)
def _table(turns: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of each position of a period the source, and how many turns it has had in that period."""
    period = sum(turns)
    sources, nth = np.empty(period, np.int16), np.empty(period, np.int32)
    had, may_come = [0] * len(turns), list[tuple[int, int]]()
    coming: list[list[int]] = [[] for _ in range(period + 1)]
    coming[0] = list(range(len(turns)))
    for place in range(period):
        for source in coming[place]:
            heapq.heappush(may_come, (-(-(had[source] + 1) * period // turns[source]), source))
        coming[place] = []
        deadline, source = heapq.heappop(may_come)
        assert place < deadline
        sources[place], nth[place] = source, had[source]
        had[source] += 1
        coming[max(place + 1, had[source] * period // turns[source])].append(source)
    return sources, nth
