"""Pairs of samples that show the same: the same bytes, the same picture, its mirror image, near features.

Left and right are sides: samples of a shard folder in the order in which they are preferred. Of one side alone each
pair comes once, its better sample left. All ranks call, and get the same.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8

from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate.picture_hashes import PictureHashes
from eyespot.eval.search.hamming import near_hashes
from eyespot.eval.search.neighbours import near_pairs
from eyespot.eval.search.row_file import Rows
from eyespot.pretrain.distributed.collectives import agreed, gather_objects
from eyespot.pretrain.distributed.process_group import World

AT_ONCE = 2**14
"""Pairs of thumbnails that are compared at once."""
READ_AT_ONCE = 256
MOST_ROUNDS = 16


class Reason(IntEnum):
    """Why two samples count as one; the first that holds is named."""

    BYTES = 0
    SAME_HASH = 1
    PICTURE = 2
    MIRRORED = 3
    FEATURES = 4

    @property
    def title(self) -> str:
        """For people."""
        return ("bytes", "picture", "picture", "mirrored", "features")[self]

    @property
    def passes_on(self) -> bool:
        """Whether the pair is so close that what befalls its left sample befalls its right one, too."""
        return self <= Reason.SAME_HASH


@dataclass(kw_only=True, slots=True)
class Side:
    """Samples of a shard folder, the preferred ones first."""

    shards: ShardFolder
    ids: Int64[np.ndarray, " n"]


@dataclass(kw_only=True, slots=True)
class Matches:
    """Pairs of places in two sides, or in one."""

    left: Int64[np.ndarray, " m"]
    right: Int64[np.ndarray, " m"]
    reason: UInt8[np.ndarray, " m"]
    score: Float32[np.ndarray, " m"]
    """Of pictures the bits that differ, of features the cosine."""

    @classmethod
    def of(
        cls, left: Int[np.ndarray, " m"], right: Int[np.ndarray, " m"], reason: Reason, score: np.ndarray | float
    ) -> "Matches":
        """Pairs for one reason."""
        count = len(left)
        return cls(
            left=left.astype(np.int64),
            right=right.astype(np.int64),
            reason=np.full(count, reason, np.uint8),
            score=np.broadcast_to(np.asarray(score, np.float32), (count,)).copy(),
        )


def joined(parts: list[Matches]) -> Matches:
    """Pairs of several searches."""
    names = ("left", "right", "reason", "score")
    none = Matches.of(np.empty(0, np.int64), np.empty(0, np.int64), Reason.BYTES, 0.0)
    return Matches(**{name: np.concatenate([getattr(part, name) for part in (none, *parts)]) for name in names})


def byte_matches(left: Side, right: Side | None, world: World) -> Matches:
    """Files that are the same. Only those of one size and checksum are read, and compared by sha256.

    Of one side: each copy with the first of its kind. Of two: each left one with the first right one.
    """
    sides = [left] if right is None else [left, right]
    keys = [_keys(side) for side in sides]
    common = _repeated(keys[0]) if right is None else np.intersect1d(keys[0], keys[1])
    asked = [np.flatnonzero(np.isin(each, common)) for each in keys]
    digests = [_digests(side, places, world) for side, places in zip(sides, asked, strict=True)]
    first: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    for place, digest in zip(asked[-1].tolist(), digests[-1], strict=True):
        if first.setdefault(digest, place) != place and right is None:
            pairs.append((first[digest], place))
    if right is not None:
        named = zip(asked[0].tolist(), digests[0], strict=True)
        pairs = [(place, first[digest]) for place, digest in named if digest in first]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return Matches.of(found[:, 0], found[:, 1], Reason.BYTES, 0.0)


def _keys(side: Side) -> np.ndarray:
    """Checksum and size of each file, in one number."""
    rows = side.shards.index[side.ids]
    return rows["crc32"].astype(np.uint64) << np.uint64(32) | rows["size"]


def _repeated(keys: np.ndarray) -> np.ndarray:
    found, counts = np.unique(keys, return_counts=True)
    return found[counts > 1]


def _digests(side: Side, places: Int[np.ndarray, " n"], world: World) -> list[bytes]:
    """sha256 of the files at some places; the ranks share the reading."""
    own, found = places[len(places) * world.rank // world.size : len(places) * (world.rank + 1) // world.size], []
    with agreed(), closing(Reader(side.shards, substitute=False)) as reader:
        for start in range(0, len(own), READ_AT_ONCE):
            _, files = reader.start(side.ids[own[start : start + READ_AT_ONCE]]).result()
            found += [hashlib.sha256(file).digest() for file in files]
    return [digest for part in gather_objects(found) for digest in part]


def picture_matches(
    left: PictureHashes, right: PictureHashes | None, *, bits: int, least: float, mirrored: bool, world: World
) -> Matches:
    """Pictures whose hashes differ in at most so many bits and whose thumbnails say so, too.

    Args:
        left: hashes of one side.
        right: of the other; None = left alone.
        bits: that may differ.
        least: correlation of the thumbnails.
        mirrored: a picture and its mirror image count as one.
        world: this process.
    """
    bank = left if right is None else right
    with agreed():
        heads, copies = _heads(bank, least)
    queries = heads if right is None else np.flatnonzero(~left.flat)
    own = queries[len(queries) * world.rank // world.size : len(queries) * (world.rank + 1) // world.size]
    found: list[Matches] = []
    with agreed():
        for column in range(1 + mirrored):
            reason = Reason.MIRRORED if column else Reason.PICTURE
            for a, b, distance in _candidates(left.hashes[own, 0], bank.hashes[heads, column], bits):
                pair, other = own[a], heads[b]
                kept = pair < other if right is None else np.ones(len(pair), bool)
                pair, other, distance = pair[kept], other[kept], distance[kept]
                alike = left.correlation(pair, bank, other, mirrored=column == 1) >= least
                found.append(Matches.of(pair[alike], other[alike], reason, distance[alike]))
    shared = joined([part for rank in gather_objects(found) for part in rank])
    return joined([copies, shared]) if right is None else shared


def _candidates(
    left: np.ndarray, right: np.ndarray, bits: int
) -> Iterator[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"], np.ndarray]]:
    for a, b, distance in near_hashes(left, right, bits):
        for start in range(0, len(a), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            yield a[part], b[part], distance[part]


def _heads(pictures: PictureHashes, least: float) -> tuple[Int64[np.ndarray, " n"], Matches]:
    """Of those with one hash and one thumbnail the first, and its pairs with the others.

    A thousand copies would else make half a million pairs. What shares the hash alone is another head.
    """
    left, heads, copies = np.flatnonzero(~pictures.flat), list[np.ndarray](), list[Matches]()
    for _ in range(MOST_ROUNDS):
        _, first, kinds = np.unique(pictures.hashes[left, 0], return_index=True, return_inverse=True)
        head = left[first][kinds]
        others = np.flatnonzero(head != left)
        alike = np.zeros(len(left), bool)
        for start in range(0, len(others), AT_ONCE):
            part = others[start : start + AT_ONCE]
            alike[part] = pictures.correlation(head[part], pictures, left[part], mirrored=False) >= least
        heads.append(left[np.sort(first)])
        copies.append(Matches.of(head[alike], left[alike], Reason.SAME_HASH, 0.0))
        others = others[~alike[others]]
        left = left[others]
        if not len(left):
            break
    return np.sort(np.concatenate([*heads, left])), joined(copies)


def feature_matches(left: Rows, right: Rows | None, *, cosine: float, seed: int, world: World) -> tuple[Matches, bool]:
    """Images whose features have a cosine of at least so much, and whether all were compared with all."""
    found = near_pairs(left, right, cosine, seed=seed, world=world)
    return Matches.of(found.left, found.right, Reason.FEATURES, found.score), found.exact
