"""Which samples of a source a cap leaves."""

import numpy as np
from jaxtyping import Int64

FEWEST_RUNS, LONGEST_RUN = 64, 256
"""A cap takes neighbours, which are read together; from so many places at least, as tars may be sorted."""


def places_of_cap(count: int, cap: int | None) -> Int64[np.ndarray, " taken"]:
    """Which of so many samples are taken, the same whenever it is asked: runs of neighbours, spread evenly.

    Args:
        count: of one source, in their order.
        cap: at most so many; None = all.
    """
    if cap is None or cap >= count:
        return np.arange(count)
    run = max(1, min(LONGEST_RUN, cap // FEWEST_RUNS))
    runs = -(-cap // run)
    first = np.arange(runs) * (count - cap) // max(1, runs - 1)  # what is left out is shared among the gaps
    return np.repeat(first, run)[:cap] + np.arange(cap)
