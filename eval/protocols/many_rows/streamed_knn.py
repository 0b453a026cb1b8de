"""kNN as ``knn.py`` has it, to the bit, on features that are read in pieces; the ranks share the queries.

Memory is that of ``AT_ONCE`` queries with their neighbours and of one tile of the bank. Each rank reads the bank once
for so many queries of its own.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from eyespot.eval.protocols.knn import BANK_TILE, KS, QUERY_TILE, TEMPERATURE, candidate, merged, votes_of
from eyespot.eval.protocols.many_rows.streamed_task import StreamedTask
from eyespot.eval.protocols.task import Candidate
from eyespot.eval.search.row_file import Rows, dealt
from eyespot.pretrain.distributed.collectives import agreed, gather_objects
from eyespot.pretrain.distributed.process_group import World

AT_ONCE = 64 * QUERY_TILE
"""Queries that go through the bank together."""


def streamed_vote(
    queries: Rows, bank: Rows, labels: Int[np.ndarray, " n"], *, num_classes: int, ks: tuple[int, ...], world: World
) -> dict[int, Int[np.ndarray, " q"]]:
    """What ``knn.vote`` says, for each k; on every rank.

    Args:
        queries: features of the samples to classify.
        bank: features of the labelled samples.
        labels: their classes, 0..num_classes-1.
        num_classes: how many classes there are.
        ks: numbers of neighbours, each at most the bank's.
        world: this process.
    """
    own: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    classes = torch.from_numpy(labels).to(world.device)
    share = dealt(-(-queries.count // QUERY_TILE), world)
    with agreed():
        for first in range(share.start, share.stop, AT_ONCE // QUERY_TILE):
            starts = range(first * QUERY_TILE, min(first * QUERY_TILE + AT_ONCE, share.stop * QUERY_TILE), QUERY_TILE)
            tiles = [_piece(queries, start, QUERY_TILE, world) for start in starts]
            for winners in _winners(tiles, bank, classes, num_classes, ks, world):
                for k, found in winners.items():
                    own[k].append(found.cpu().numpy())
    parts = gather_objects({k: np.concatenate(found or [np.empty(0, np.int64)]) for k, found in own.items()})
    return {k: np.concatenate([part[k] for part in parts]) for k in ks}


def _winners(
    tiles: list[Tensor], bank: Rows, classes: Tensor, num_classes: int, ks: tuple[int, ...], world: World
) -> Iterator[dict[int, Tensor]]:
    """For each tile of queries, as ``knn.nearest`` goes through the bank."""
    k = max(ks)
    found = [(rows.new_empty(len(rows), 0), classes.new_empty(len(rows), 0)) for rows in tiles]
    for start in range(0, bank.count, BANK_TILE):
        tile = _piece(bank, start, BANK_TILE, world)
        found = [merged(*each, rows, tile, start, k) for each, rows in zip(found, tiles, strict=True)]
    for similarity, neighbours in found:
        yield votes_of(similarity, classes[neighbours], num_classes, ks, TEMPERATURE)


def _piece(rows: Rows, start: int, count: int, world: World) -> Tensor:
    return rows.take(np.arange(start, min(start + count, rows.count)), world.device)


def candidates(task: StreamedTask) -> list[Candidate]:
    """As ``knn.candidates``."""
    ks = tuple(k for k in KS if k <= len(task.fit)) or (len(task.fit),)
    found = []
    for kind, train in task.train.items():
        labels = task.train_labels
        known = {"num_classes": task.num_classes, "ks": ks, "world": task.world}
        tried = streamed_vote(train.some(task.held), train.some(task.fit), labels[task.fit], **known)
        final = streamed_vote(task.test[kind], train, labels, **known)
        right = {k: torch.from_numpy(tried[k] == labels[task.held]).double().mean().item() for k in ks}
        found += [candidate(kind, k, right[k], final[k]) for k in ks]
    return found
