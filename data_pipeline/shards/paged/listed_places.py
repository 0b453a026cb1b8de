"""Whether two lists name the same places of tars, by sorting: dicts of as many tuples take ten times the memory."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

PLACE_DTYPE = np.dtype([("tar", "<u4"), ("offset", "<u8"), ("size", "<u8"), ("label", "<i4")])


class Compared(NamedTuple):
    """What an index lists, and what is there."""

    wrong: Int64[np.ndarray, " wrong"]
    """Rows of the index that nothing bears out: nothing is at that place, or of another size or label."""
    absent: Int64[np.ndarray, " absent"]
    """Of what is there, what no row lists."""
    num_twice: int
    """Rows that list a place that a later one lists too."""
    is_listed: Bool[np.ndarray, " there"]
    """Of all that is there, whether some row lists its place."""


def as_places(rows: np.ndarray | Iterable[tuple[int, int, int, int]]) -> np.ndarray:
    """Of PLACE_DTYPE, from rows that have these columns, or tuples of them."""
    if not isinstance(rows, np.ndarray):
        return np.fromiter(rows, PLACE_DTYPE)
    found = np.empty(len(rows), PLACE_DTYPE)
    for name in PLACE_DTYPE.names or ():
        found[name] = rows[name]
    return found


def compare(listed: np.ndarray, there: np.ndarray) -> Compared:
    """Compares an index with what is there.

    Args:
        listed: (n,) of PLACE_DTYPE, what the index says.
        there: (m,) of PLACE_DTYPE, each place once.
    """
    both = np.concatenate([listed, there])
    order = np.lexsort((both["offset"], both["tar"]))  # stable
    is_new = np.ones(len(both), bool)
    for name in ("tar", "offset"):
        column = both[name][order]
        is_new[1:] &= column[1:] == column[:-1]
    is_new[1:] ^= True
    place = np.empty(len(both), np.int64)
    place[order] = np.cumsum(is_new) - 1
    of_listed, of_there = place[: len(listed)], place[len(listed) :]
    num_places = int(is_new.sum())
    row, other = np.full(num_places, -1), np.full(num_places, -1)
    row[of_listed], other[of_there] = np.arange(len(listed)), np.arange(len(there))  # of several the last
    pairs = (row >= 0) & (other >= 0)
    differs = (row >= 0) & ~pairs
    for name in ("size", "label"):
        differs[pairs] |= listed[name][row[pairs]] != there[name][other[pairs]]
    absent = np.sort(other[(other >= 0) & (row < 0)])
    return Compared(np.sort(row[differs]), absent, len(listed) - int((row >= 0).sum()), row[of_there] >= 0)
