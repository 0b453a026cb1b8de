"""Who finds whom in one space: ranks both ways, and whether a true pair lies closer than a false one.

A sample ties what lies in it: its image, and each of its captions, or its sound, or its depth map. What is identical
counts as one: where two images have the same caption, either is right for it, and so is that caption for either.
Cosines that agree to 1e-7 are equal, and of equals the wrong ones come first: where all vectors are the same, nothing
is found.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from eyespot.data_pipeline.augment.clip_frames import partner_ids
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.joint.towers import Side

STEPS = 10_000_000
"""Cosines are compared in steps of 1e-7, the rounding of float32."""
TILE = 256
"""Rows that ask at a time: memory is that times all that may answer."""
NUM_RESAMPLES = 1000


@dataclass(kw_only=True, slots=True)
class Ranks:
    """How far each that asks has to look."""

    first: Int64[np.ndarray, " m"]
    """At which place the first right answer stands, from 1."""
    num_right: Int64[np.ndarray, " m"]
    """How many of the answers are right."""
    num_answers: int

    def by_chance(self, owners: Int64[np.ndarray, " m"], k: int) -> float:
        """The mean of what ``found_first`` would give, were all answers in random order.

        Args:
            owners: whose each row is; every sample has one or more.
            k: how many answers are looked at.
        """
        missing = np.ones(len(self.num_right))
        for place in range(min(k, self.num_answers)):
            left = self.num_answers - place
            missing *= np.clip(left - self.num_right, 0, None) / left
        return float(1 - (np.bincount(owners, missing) / np.bincount(owners)).mean())


class _Right:
    """Which answers are right, by contents of one side; every image has one row on its side."""

    def __init__(self, image: Side, other: Side, *, image_asks: bool) -> None:
        pairs = np.stack([image.contents[other.owners], other.contents], axis=1)
        pairs = np.unique(pairs if image_asks else pairs[:, ::-1], axis=0)
        self._answers = (other if image_asks else image).contents
        self._right = pairs[:, 1]
        self._first = np.searchsorted(pairs[:, 0], np.arange(pairs[-1, 0] + 2))

    def __call__(self, contents: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, "b n"]:
        """Of some contents that ask, which rows of the other side are right."""
        found = np.zeros((len(contents), self._answers.max() + 1), bool)
        for row, content in enumerate(contents.tolist()):
            found[row, self._right[self._first[content] : self._first[content + 1]]] = True
        return found[:, self._answers]


def ranks(image: Side, other: Side, *, image_asks: bool) -> Ranks:
    """At which place each row of one side finds a right one of the other, ordered by cosine.

    Args:
        image: a row for each sample.
        other: a row for each caption, sound or depth map.
        image_asks: whether images ask, and the others answer; else the other way round.
    """
    asking, answering = (image, other) if image_asks else (other, image)
    right = _Right(image, other, image_asks=image_asks)
    answers = answering.vectors.double().T
    first, num_right = [], []
    for begin in range(0, len(asking.contents), TILE):
        tile = slice(begin, begin + TILE)
        is_right = torch.from_numpy(right(asking.contents[tile]))
        cosines = _steps(asking.vectors[tile].double() @ answers)
        best = cosines.masked_fill(~is_right, -(2**62)).amax(1, keepdim=True)
        first.append(1 + ((cosines >= best) & ~is_right).sum(1).numpy())
        num_right.append(is_right.sum(1).numpy())
    return Ranks(first=np.concatenate(first), num_right=np.concatenate(num_right), num_answers=len(answering.contents))


def found_first(found: Ranks, owners: Int64[np.ndarray, " m"], k: int) -> Float64[np.ndarray, " n"]:
    """Of each sample the share of its rows that find a right answer among the first k.

    Args:
        found: where they find it.
        owners: whose each row is; every sample has one or more.
        k: how many answers are looked at.
    """
    return np.bincount(owners, found.first <= k) / np.bincount(owners)


def false_partners(
    image: Side, other: Side, ids: Int64[np.ndarray, " n"], num_samples: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """Of each sample the place of another one whose first caption, sound or depth map is not right for its image.

    It is the partner that views of a first epoch by ``seed`` show beside it, among the samples that are judged; where
    that one is right, the next sample behind it that is not.

    Args:
        image: a row for each sample.
        other: a row or more for each sample.
        ids: of the samples, ascending.
        num_samples: of the shards.
        seed: decides which.

    Raises:
        UserError: for a sample there is none.
    """
    drawn = np.searchsorted(ids, partner_ids(seed, np.zeros_like(ids), ids, num_samples, ids))
    firsts = _first_rows(other)
    right = _Right(image, other, image_asks=True)
    chosen = np.empty_like(drawn)
    for begin in range(0, len(ids), TILE):
        tile = slice(begin, begin + TILE)
        wrong = ~right(image.contents[tile])[:, firsts]
        if not wrong.any(1).all():
            sample = ids[begin + int(np.argmin(wrong.any(1)))]
            raise UserError(f"what all samples have beside their images is right for sample {sample}: none is false")
        order = (drawn[tile, None] + np.arange(len(ids))) % len(ids)
        steps = np.take_along_axis(wrong, order, 1).argmax(1)
        chosen[tile] = np.take_along_axis(order, steps[:, None], 1)[:, 0]
    return chosen


def _first_rows(side: Side) -> Int64[np.ndarray, " n"]:
    """The first row of each sample."""
    return np.searchsorted(side.owners, np.arange(side.owners[-1] + 1))


def true_and_false(
    image: Side, other: Side, partners: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Cosines of each image with what is beside it, and with what is beside its false partner, in steps of 1e-7."""
    firsts = _first_rows(other)
    rows = image.vectors.double()
    pairs = [(rows * other.vectors[firsts[places]].double()).sum(1) for places in (np.arange(len(firsts)), partners)]
    true, false = (_steps(each).numpy() for each in pairs)
    return true, false


def area(true: Int64[np.ndarray, " n"], false: Int64[np.ndarray, " m"]) -> float:
    """Area under the ROC curve: how often any true pair's cosine is above any false pair's; equal ones count half."""
    ordered = np.sort(false)
    below, up_to = (np.searchsorted(ordered, true, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(false))


def area_interval(
    true: Int64[np.ndarray, " n"], false: Int64[np.ndarray, " n"], confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of the area: samples are drawn again, each with its true and its false pair."""
    generator = np.random.default_rng(0)
    areas = [area(true[rows], false[rows]) for rows in _draws(generator, len(true))]
    low, high = np.quantile(areas, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _draws(generator: np.random.Generator, count: int) -> Iterator[Int64[np.ndarray, " n"]]:
    return (generator.integers(count, size=count) for _ in range(NUM_RESAMPLES))


def _steps(cosines: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    return (cosines * STEPS).round().long()
