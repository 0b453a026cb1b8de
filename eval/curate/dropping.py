"""Which samples are dropped, and for whose sake: every dropped one is close to one that stays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate.matches import Matches, Reason

AT_ONCE = 2**16


@dataclass(kw_only=True, slots=True)
class Dropped:
    """What goes; places in the side that it was chosen from."""

    places: Int64[np.ndarray, " d"]
    """Ascending."""
    for_whom: Int64[np.ndarray, " d"]
    """The place of the one that stays; of leaks that in the other side."""
    reason: UInt8[np.ndarray, " d"]
    score: Float32[np.ndarray, " d"]

    def counts(self) -> dict[str, int]:
        """By reason."""
        found: dict[str, int] = {reason.title: 0 for reason in Reason}
        for reason, count in zip(*np.unique(self.reason, return_counts=True), strict=True):
            found[Reason(reason).title] += int(count)
        return {name: count for name, count in found.items() if count}

    def stays(self, count: int) -> Bool[np.ndarray, " n"]:
        """Of each of so many places, whether it is not dropped."""
        stays = np.ones(count, bool)
        stays[self.places] = False
        return stays


def preferred(shards: ShardFolder, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The ids: images with more pixels first, then larger files, then lower ids. Copies are mostly smaller."""
    rows = shards.index[ids]
    pixels = rows["height"].astype(np.int64) * rows["width"]
    return ids[np.lexsort((ids, -rows["size"].astype(np.int64), -pixels))]


def drop_duplicates(matches: Matches) -> Dropped:
    """Goes through one side from its best sample on, and drops what matches a sample that stays.

    Groups are not merged through their members: of a chain a ~ b ~ c, where a and c do not match, both stay.

    Args:
        matches: pairs of one side, the better sample left.
    """
    order = np.lexsort((matches.score, matches.left, matches.reason, matches.right))
    gone: dict[int, tuple[int, int, float]] = {}  # for whose sake, why, how close
    found: list[tuple[int, int, int, float]] = []
    columns = (matches.left, matches.right, matches.reason, matches.score)
    for left, right, reason, score in _rows(columns, order):
        if right in gone or (left in gone and not Reason(reason).passes_on):
            continue
        owner, why, close = gone.get(left, (left, reason, score))
        # What is the same as one that goes has with the one that stays what that one has: the weaker of both reasons.
        gone[right] = (owner, why, close) if why >= reason else (owner, reason, score)
        found.append((right, *gone[right]))
    return _dropped(found)


def _rows(columns: Sequence[np.ndarray], order: Int64[np.ndarray, " m"]) -> Iterator[tuple[int, int, int, float]]:
    """As numbers of Python, some at a time: millions of them would take gigabytes."""
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        yield from zip(*(column[part].tolist() for column in columns), strict=True)


def drop_leaks(matches: Matches) -> Dropped:
    """Every left sample that matches a right one, with its best match.

    Args:
        matches: pairs of what is learned from, left, and of what is held out, right.
    """
    closeness = np.where(matches.reason == Reason.FEATURES, -matches.score, matches.score)
    order = np.lexsort((matches.right, closeness, matches.reason, matches.left))
    _, first = np.unique(matches.left[order], return_index=True)
    best = order[first]
    return Dropped(
        places=matches.left[best],
        for_whom=matches.right[best],
        reason=matches.reason[best],
        score=matches.score[best],
    )


def _dropped(found: list[tuple[int, int, int, float]]) -> Dropped:
    """Each pair's right sample comes once, ascending."""
    places, for_whom, reason, score = zip(*found, strict=True) if found else ((), (), (), ())
    return Dropped(
        places=np.array(places, np.int64),
        for_whom=np.array(for_whom, np.int64),
        reason=np.array(reason, np.uint8),
        score=np.array(score, np.float32),
    )
