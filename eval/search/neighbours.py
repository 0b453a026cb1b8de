"""Nearest rows and pairs of near rows, by cosine, in bounded memory: exactly, or inside of cells of k-means.

Cells: two rows are compared where one's own cell is among the four nearest of the other, as SemDeDup (Abbas et al.
2023, arXiv:2303.09540) compares inside of clusters. What is missed lies near many borders at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int64
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.search.kmeans import ITERATIONS, kmeans, nearest_centroids
from eyespot.eval.search.row_file import BLOCK, Rows, dealt
from eyespot.pretrain.distributed.collectives import agreed, gather_objects
from eyespot.pretrain.distributed.process_group import World

EXACT_PAIRS = 2e10
"""Comparisons up to which all rows are compared with all: some minutes on a core at 200 dimensions."""
MOST_PAIRS = 50_000_000
"""Pairs that are kept; more of them mean a threshold that most images pass."""

CELLS_OF_A_ROW = 4
"""Nearest cells of a row in which those look for it whose own cell it is."""
CELLS_AT_ONCE = 64
"""Whose rows are looked up together."""

_PAIR = np.dtype([("left", np.int64), ("right", np.int64), ("score", np.float32)])


@dataclass(kw_only=True, slots=True)
class Pairs:
    """Pairs of rows that are alike."""

    left: Int64[np.ndarray, " m"]
    right: Int64[np.ndarray, " m"]
    score: Float[np.ndarray, " m"]
    """Their cosine."""
    exact: bool
    """Whether every row was compared with every other."""


def nearest_rows(
    queries: Float[Tensor, "q d"], bank: Rows, k: int, world: World
) -> tuple[Float[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    """The k rows of the bank with the largest cosine, exactly, largest first; of equals the first row.

    Each rank looks through its part of the bank once. Memory is O(q (d + k + BLOCK)).

    Args:
        queries: of length 1, the same on every rank.
        bank: among which to look.
        k: how many, at most the bank's.
        world: this process.
    """
    values = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    with agreed():
        for number in dealt(bank.num_blocks, world):
            products = queries @ bank.block(number, world.device).T
            best, rows = products.topk(min(k, products.shape[1]))
            least = best[:, -1:]
            if bool(((products == least).sum(1) > (best == least).sum(1)).any()):  # topk takes any of equals
                rows = products.argsort(dim=1, descending=True, stable=True)[:, : best.shape[1]]
                best = products.gather(1, rows)
            values = np.concatenate([values, best.cpu().numpy()], 1)
            places = np.concatenate([places, rows.cpu().numpy() + number * BLOCK], 1)
            values, places = _first(values, places, k)
    parts = gather_objects((values, places))
    return _first(np.concatenate([part[0] for part in parts], 1), np.concatenate([part[1] for part in parts], 1), k)


def _first(
    values: Float[np.ndarray, "q n"], places: Int64[np.ndarray, "q n"], k: int
) -> tuple[Float[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    order = np.lexsort((places, -values), axis=1)[:, :k]
    return np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)


def near_pairs(rows: Rows, others: Rows | None, least: float, *, seed: int, world: World) -> Pairs:
    """Pairs of rows whose cosine is at least ``least``. All ranks call it and get the same.

    Args:
        rows: the left sides.
        others: the right sides; None = ``rows`` themselves, each pair once, its first row left.
        least: cosine.
        seed: of the cells, where there are too many rows to compare all.
        world: this process.

    Raises:
        UserError: most rows are that alike.
    """
    count = rows.count * (rows.count / 2 if others is None else others.count)
    exact = count <= EXACT_PAIRS
    found = _all_pairs(rows, others, least, world) if exact else _cell_pairs(rows, others, least, seed, world)
    own: list[np.ndarray] = []
    with agreed():
        total = 0
        for left, right, score in found:
            if others is None:
                left, right = np.minimum(left, right), np.maximum(left, right)
                kept = left < right
                left, right, score = left[kept], right[kept], score[kept]
            total += len(left)
            if total > MOST_PAIRS:
                raise UserError(f"--cosine {least}: over {plural(MOST_PAIRS, 'pair')} are that alike; raise it")
            pairs = np.empty(len(left), _PAIR)
            pairs["left"], pairs["right"], pairs["score"] = left, right, score
            own.append(pairs)
    parts = [part for rank in gather_objects(own) for part in rank]
    if not parts:
        none = np.empty(0, np.int64)
        return Pairs(left=none, right=none, score=np.empty(0, np.float32), exact=exact)
    pairs = np.concatenate(parts)
    pairs = pairs[np.lexsort((-pairs["score"], pairs["right"], pairs["left"]))]
    new = np.ones(len(pairs), bool)
    new[1:] = (pairs["left"][1:] != pairs["left"][:-1]) | (pairs["right"][1:] != pairs["right"][:-1])
    pairs = pairs[new]  # cells meet a pair more than once
    return Pairs(left=pairs["left"].copy(), right=pairs["right"].copy(), score=pairs["score"].copy(), exact=exact)


_Found = tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"], Float[np.ndarray, " m"]]


def _above(
    left: Float[Tensor, "a d"], right: Float[Tensor, "b d"], least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    products = left @ right.T
    where = (products >= least).nonzero()
    found = products[where[:, 0], where[:, 1]]
    return where[:, 0].cpu().numpy(), where[:, 1].cpu().numpy(), found.cpu().numpy()


def _all_pairs(rows: Rows, others: Rows | None, least: float, world: World) -> Iterator[_Found]:
    """Every block with every other; blocks are dealt like cards, because later ones have fewer others to meet."""
    bank = rows if others is None else others
    for number in range(world.rank, rows.num_blocks, world.size):
        block = rows.block(number, world.device)
        for other in range(number if others is None else 0, bank.num_blocks):
            left, right, score = _above(block, bank.block(other, world.device), least)
            yield left + number * BLOCK, right + other * BLOCK, score


def _cell_pairs(rows: Rows, others: Rows | None, least: float, seed: int, world: World) -> Iterator[_Found]:
    """Rows of a cell with those that have it among their nearest."""
    bank = rows if others is None else others
    num_cells = max(2, min(4096, math.isqrt(bank.count) // 2))
    cells = kmeans(bank, num_cells, seed=seed, world=world, iterations=min(ITERATIONS, 10)).centroids
    own = nearest_centroids(rows, cells, CELLS_OF_A_ROW, world)[0]
    theirs = own if others is None else nearest_centroids(bank, cells, CELLS_OF_A_ROW, world)[0]
    pairs = [(own[:, :1], theirs), (own[:, 1:], theirs[:, :1])] if others is not None else [(own[:, :1], theirs)]
    for near, far in pairs:
        members = (_members(labels, num_cells, world) for labels in (near, far))
        for left, right in zip(*members, strict=True):
            for start in range(0, len(left), BLOCK):
                block = rows.take(left[start : start + BLOCK], world.device)
                for begin in range(0, len(right), BLOCK):
                    other = bank.take(right[begin : begin + BLOCK], world.device)
                    a, b, score = _above(block, other, least)
                    yield left[start + a], right[begin + b], score


def _members(labels: Int[np.ndarray, "n c"], num_cells: int, world: World) -> Iterator[Int64[np.ndarray, " m"]]:
    """Rows of each of this rank's cells, ascending; each look through the labels finds those of so many cells."""
    for first in range(0, num_cells, CELLS_AT_ONCE * world.size):
        asked = np.arange(first + world.rank, min(first + CELLS_AT_ONCE * world.size, num_cells), world.size)
        wanted = np.zeros(num_cells, bool)
        wanted[asked] = True
        rows, columns = wanted[labels].nonzero()
        cells = labels[rows, columns]
        order = np.argsort(cells, kind="stable")
        begins, ends = (np.searchsorted(cells[order], asked, side=side) for side in ("left", "right"))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            yield rows[order[begin:end]]
