"""``eyespot curate balance`` and ``retrieve``: samples chosen by where their features lie."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.curate.cluster_tree import ClusterTree, balanced_sample, cluster_tree
from eyespot.eval.curate.curation import Encoder, Question, data_told, write_answer
from eyespot.eval.search.neighbours import nearest_rows
from eyespot.eval.search.row_file import BLOCK
from eyespot.pretrain.distributed.collectives import agreed

MOST_LEVELS = 6


@dataclass(kw_only=True, slots=True)
class Balanced:
    """A sample out of clusters."""

    tree: ClusterTree
    kept: Int64[np.ndarray, " m"]
    """Places among the samples that it was chosen from."""


@dataclass(kw_only=True, slots=True)
class Retrieved:
    """Neighbours of seed images."""

    seeds: Int64[np.ndarray, " s"]
    """Ids in the seeds' folder."""
    neighbours: Int64[np.ndarray, "s k"]
    """Ids, the nearest first."""
    cosines: Float[np.ndarray, "s k"]
    kept: Int64[np.ndarray, " m"]


def default_sizes(count: int) -> tuple[int, ...]:
    """Two levels: about 20 samples for each cluster of the first, 20 of those for each of the second."""
    low = max(2, count // 20)
    return (low, max(2, low // 20)) if low >= 40 else (low,)


def balance(question: Question, encoder: Encoder, sizes: Sequence[int], rounds: int, keep: int) -> Balanced:
    """Chooses ``keep`` samples evenly from clusters of clusters, and writes them down. All ranks call it.

    Raises:
        UserError: the sizes do not shrink from level to level, or there are not as many samples.
    """
    rows = encoder.rows(question.shards, question.start, question.world)
    with agreed():
        _check_sizes(sizes, rows.count)
        if not 1 <= keep <= rows.count:
            raise UserError(f"--keep {keep}: must lie between 1 and {rows.count}, the samples that there are")
        state = question.out / "state"
        if question.world.rank == 0:
            state.mkdir(exist_ok=True)
    data = f"{question.key()} {encoder.subject.digest()} {encoder.kind}"
    tree = cluster_tree(rows, sizes, rounds=rounds, seed=question.seed, world=question.world, state=state, key=data)
    places = balanced_sample(tree, keep, question.seed)
    with agreed():
        if question.world.rank == 0:
            told = {"encoder": encoder.told(question.shards), "mean_cosines": tree.objectives}
            dropped = {"too many alike": rows.count - keep} if keep < rows.count else {}
            write_answer(question, question.start[places], dropped=dropped, told=told)
    return Balanced(tree=tree, kept=places)


def _check_sizes(sizes: Sequence[int], count: int) -> None:
    if count < 2:
        raise UserError("balance: there is one sample to choose from, and it takes two to be in balance; give it more")
    said = " ".join(map(str, sizes))
    if not 1 <= len(sizes) <= MOST_LEVELS:
        raise UserError(f"--clusters {said}: must name 1 to {MOST_LEVELS} levels")
    if min(sizes) < 2 or sizes[0] > count or any(high >= low for low, high in itertools.pairwise(sizes)):
        raise UserError(
            f"--clusters {said}: each level must have fewer clusters than the one before, from {count} samples at most"
            " to 2 at least"
        )


def retrieve(
    question: Question,
    encoder: Encoder,
    seeds: ShardFolder,
    seed_ids: Int64[np.ndarray, " s"],
    *,
    each: int,
    keep: int | None,
    cosine: float,
) -> Retrieved:
    """Chooses the nearest neighbours of seed images, and writes them down. All ranks call it.

    Args:
        question: of which samples.
        encoder: whose features decide.
        seeds: where the seeds lie.
        seed_ids: which they are.
        each: neighbours of each seed.
        keep: most samples; all first neighbours come before all second ones, of them the nearest; None = all.
        cosine: that a neighbour has at least.

    Raises:
        UserError: no neighbour is so near, or there are fewer samples than neighbours.
    """
    world = question.world
    bank, asking = encoder.rows(question.shards, question.start, world), encoder.rows(seeds, seed_ids, world)
    with agreed():
        if each > bank.count:
            raise UserError(
                f"--neighbours {each}: more than the {plural(bank.count, 'sample')} to choose from; ask for fewer"
            )
    parts = []
    for first in range(0, asking.count, 4 * BLOCK):
        with agreed():
            queries = asking.take(np.arange(first, min(first + 4 * BLOCK, asking.count)), world.device)
        parts.append(nearest_rows(queries, bank, each, world))
    cosines, places = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    near = cosines >= cosine
    turns = np.broadcast_to(np.arange(each), places.shape)[near]
    order = np.lexsort((places[near], -cosines[near], turns))
    wanted = places[near][order]
    _, first = np.unique(wanted, return_index=True)
    kept = np.sort(wanted[np.sort(first)][:keep])
    with agreed():
        if world.rank == 0:
            told: dict[str, Any] = {"encoder": encoder.told(question.shards)}
            told["seeds"] = data_told(seeds) | {"chosen": len(seed_ids)}
            told["mean_cosine"] = math.fsum(cosines[near].tolist()) / max(1, int(near.sum()))
            dropped = {"no neighbour of a seed": bank.count - len(first), "over --keep": len(first) - len(kept)}
            write_answer(
                question, question.start[kept], dropped={name: n for name, n in dropped.items() if n}, told=told
            )
    return Retrieved(seeds=seed_ids, neighbours=question.start[places], cosines=cosines, kept=question.start[kept])
