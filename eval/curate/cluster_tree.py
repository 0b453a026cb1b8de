"""Clusters of clusters, and a sample that takes from all of them alike.

Hierarchical k-means with resampling and balanced sampling from the top down: Vo et al. 2024, "Automatic data curation
for self-supervised learning: a clustering-based approach" (arXiv:2405.15613), sections 3.2 to 3.4. One k-means spends
most clusters where most images are. Clustering its centroids again, level by level, comes closer to spreading them
evenly over what there is; and so does clustering anew only the rows next to each centroid (resampling). Written from
the paper; ours differ from it in what ``kmeans`` says of itself, and in that resampling takes the nearest half of an
average cluster from each.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Int64

from eyespot.eval.search.kmeans import KMeans, assigned, keep, kept_clusters, kmeans, write_state
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.collectives import agreed, barrier, gather_objects
from eyespot.pretrain.distributed.process_group import World


@dataclass(kw_only=True, slots=True)
class ClusterTree:
    """Levels of clusters, the lowest first."""

    parents: list[Int[np.ndarray, " _"]]
    """parents[0]: the cluster of each row; parents[1]: the cluster of level 2 of each cluster of level 1; ..."""
    cosines: list[Float[np.ndarray, " _"]]
    """To that cluster's centroid."""
    sizes: list[int]
    """Clusters of each level."""
    objectives: list[float]
    """Mean cosine to the centroid, of what each level clusters."""

    def tops(self) -> Int[np.ndarray, " n"]:
        """The highest cluster of each row."""
        tops = self.parents[0]
        for parents in self.parents[1:]:
            tops = parents[tops]
        return tops


def cluster_tree(
    rows: Rows, sizes: Sequence[int], *, rounds: int, seed: int, world: World, state: Path, key: str
) -> ClusterTree:
    """Clusters rows, then their centroids, and so on. All ranks call it and get the same.

    Args:
        rows: what to cluster.
        sizes: clusters of each level, the lowest first, each fewer than the one before.
        rounds: of resampling, on each level.
        seed: of the k-means.
        world: this process.
        state: a folder that keeps what is done: a call with the same key goes on there.
        key: of what the rows are.
    """
    tree = ClusterTree(parents=[], cosines=[], sizes=list(sizes), objectives=[])
    for level, size in enumerate(sizes, 1):
        found = _level(rows, size, level, rounds, seed, world, state, key)
        parents, cosines = assigned(rows, found.centroids, world)
        tree.parents.append(parents)
        tree.cosines.append(cosines)
        tree.objectives.append(float(cosines.mean(dtype=np.float64)))
        file = state / f"centroids-{level}.npy"
        with agreed():
            if world.rank == 0:
                stream = io.BytesIO()
                np.save(stream, found.centroids)
                write_state(file, stream.getvalue())
        barrier()
        rows = Rows(RowFile(file))
    return tree


def _level(rows: Rows, size: int, level: int, rounds: int, seed: int, world: World, state: Path, key: str) -> KMeans:
    """Clusters of one level, after all rounds of resampling."""
    files = [state / f"level-{level}-round-{number}.npz" for number in range(rounds + 1)]
    keys = [
        f"{key} level {level} round {number} of {rows.count} in {size}, seed {seed}" for number in range(rounds + 1)
    ]
    kept = [kept_clusters(*each) if world.rank == 0 else None for each in zip(files, keys, strict=True)]
    kept = gather_objects(kept)[0]
    ready = max((number for number, each in enumerate(kept) if each), default=-1)
    last = kept[ready] if ready >= 0 else None
    found = None if last is None else last[0]
    for number in range(ready + 1, rounds + 1):
        chosen = rows
        if found is not None:
            parents, cosines = assigned(rows, found.centroids, world)
            each = max(2, rows.count // size // 2)
            places = nearest_of_each(parents, cosines, each)
            if len(places) >= size:  # of rows that are all equal, one cluster has all
                chosen = rows.some(np.sort(places))
        partial = files[number].with_suffix(".partial")
        found = kmeans(chosen, size, seed=seed + number, world=world, state=partial, key=keys[number])
        with agreed():
            if world.rank == 0:
                keep(files[number], keys[number], found, True)
                partial.unlink(missing_ok=True)
    assert found is not None
    return found


def nearest_of_each(
    labels: Int[np.ndarray, " n"], cosines: Float[np.ndarray, " n"], each: int
) -> Int64[np.ndarray, " m"]:
    """Places of the so many rows of each cluster that are nearest to its centroid; of equals the first."""
    order = np.lexsort((-cosines, labels))
    return order[_place_in_group(labels[order]) < each]


def _place_in_group(labels: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Of sorted labels: the how-manieth each is of its kind."""
    return np.arange(len(labels)) - np.searchsorted(labels, labels)


def even_counts(sizes: Int[np.ndarray, " k"], target: int, generator: np.random.Generator) -> Int64[np.ndarray, " k"]:
    """How many to take of each group so that they add up: as even as the groups allow.

    The same of each, all of those that have fewer; what is left over goes by lot, one each, to groups that have more.

    Args:
        sizes: what each has.
        target: what they are to add up to; of more than there is, all.
        generator: what lots are drawn with.
    """
    sizes = np.asarray(sizes, np.int64)
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # the largest level that does not take too much
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= target else (low, middle - 1)
    counts = np.minimum(sizes, low)
    more = np.flatnonzero(sizes > low)
    counts[generator.permutation(more)[: target - int(counts.sum())]] += 1
    return counts


def balanced_sample(tree: ClusterTree, target: int, seed: int) -> Int64[np.ndarray, " m"]:
    """Rows, ascending, that share a target evenly among the highest clusters, each share among theirs, and so on.

    In the lowest clusters rows are drawn by lot.

    Args:
        tree: the clusters.
        target: how many rows; of more than there are, all.
        seed: of the lots.
    """
    generator = np.random.default_rng(seed)
    holds = [np.bincount(tree.parents[0], minlength=tree.sizes[0])]  # rows below each cluster, level by level
    for parents, size in zip(tree.parents[1:], tree.sizes[1:], strict=True):
        holds.append(np.bincount(parents, weights=holds[-1], minlength=size).astype(np.int64))
    counts = even_counts(holds[-1], target, generator)
    for level in range(len(tree.sizes) - 1, 0, -1):
        below = np.zeros(tree.sizes[level - 1], np.int64)
        order = np.argsort(tree.parents[level], kind="stable")
        cuts = np.searchsorted(tree.parents[level][order], np.arange(tree.sizes[level] + 1))
        for cluster in np.flatnonzero(counts):
            children = order[cuts[cluster] : cuts[cluster + 1]]
            below[children] = even_counts(holds[level - 1][children], int(counts[cluster]), generator)
        counts = below
    labels = tree.parents[0]
    order = np.lexsort((generator.random(len(labels)), labels))
    return np.sort(order[_place_in_group(labels[order]) < counts[labels[order]]])
