"""Spherical k-means of more rows than fit into memory, the same to the bit on any number of ranks.

Lloyd 1982 on the sphere (Dhillon & Modha 2001, "Concept decompositions for large sparse text data using clustering"):
rows have length 1, a cluster's centroid is the direction of the sum of its rows, and the objective is the mean cosine
of rows to their centroid. It starts by k-means++ (Arthur & Vassilvitskii 2007) on a sample, or, of many clusters, by
rows drawn by lot; and learns from at most ``PER_CLUSTER`` rows for each cluster, as faiss does (Johnson et al. 2017,
arXiv:1702.08734). A cluster that loses all rows takes half of the largest one, as there.

Sums are of whole numbers, units of 2^-30: they do not depend on who adds first. Up to 2^33 rows fit.
"""

import heapq
import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.search.row_file import BLOCK, Rows, dealt
from eyespot.pretrain.distributed.collectives import agreed, gather_objects, rank_sum, take_from_first, take_from_owners
from eyespot.pretrain.distributed.process_group import World

PER_CLUSTER = 256
MOST_PLUS_PLUS = 1024
"""Clusters that k-means++ chooses; of more, rows are drawn by lot: it looks at all of a sample for each of them."""
SAMPLE_PER_CLUSTER = 32
"""Rows among which k-means++ chooses, for each cluster."""
CENTROIDS_AT_ONCE = 16_384
"""That rows are multiplied with: a million clusters would else make 16 GB of products."""
ITERATIONS = 25
LEAST_GAIN = 1e-4
"""Of the mean cosine, as a share of what is left to 1: less ends the iterations."""
_UNIT = 2.0**30
_SHIFT = 2**-10
"""How far each half of a split cluster is moved."""


@dataclass(kw_only=True, slots=True)
class KMeans:
    """Clusters."""

    centroids: Float[np.ndarray, "k d"]
    """Of length 1, float32."""
    objective: float
    """Mean cosine of the rows that it learned from to their centroids."""
    iterations: int


def kmeans(
    rows: Rows,
    num_clusters: int,
    *,
    seed: int,
    world: World,
    iterations: int = ITERATIONS,
    state: Path | None = None,
    key: str = "",
) -> KMeans:
    """Clusters of rows. All ranks call it and get the same.

    Args:
        rows: what to cluster.
        num_clusters: k, at most as many as rows.
        seed: of the start, and of the rows that it learns from.
        world: this process.
        iterations: most passes over the rows.
        state: a file that keeps the centroids after each iteration; a call with the same key goes on from there.
        key: of what determines the clusters besides seed, k and the number of rows.
    """
    generator = np.random.default_rng([seed, num_clusters])
    if rows.count > num_clusters * PER_CLUSTER:
        rows = rows.some(np.sort(generator.permutation(rows.count)[: num_clusters * PER_CLUSTER]))
    key = f"{key} {seed} {num_clusters} {rows.count} {iterations}"
    with agreed():
        kept = gather_objects(kept_clusters(state, key) if world.rank == 0 else None)[0]
    if kept is None:
        with agreed():
            centroids = _start(rows, num_clusters, generator, world)
        kept = KMeans(centroids=centroids, objective=-1.0, iterations=0), False
    found, ended = kept
    while not ended and found.iterations < iterations:
        sums, counts, objective = _one_pass(rows, torch.from_numpy(found.centroids).to(world.device), world)
        centroids = _renewed(sums, counts, found.centroids)
        ended = objective - found.objective < LEAST_GAIN * (1 - objective)
        found = KMeans(centroids=centroids, objective=objective, iterations=found.iterations + 1)
        with agreed():
            if state is not None and world.rank == 0:
                keep(state, key, found, ended)
    return found


def assigned(
    rows: Rows, centroids: Float[np.ndarray, "k d"], world: World
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The cluster of each row and its cosine to the centroid, on every rank: 8 bytes a row.

    Args:
        rows: any.
        centroids: of length 1.
        world: this process.
    """
    labels, similarity = nearest_centroids(rows, centroids, 1, world)
    return labels[:, 0], similarity[:, 0]


def nearest_centroids(
    rows: Rows, centroids: Float[np.ndarray, "k d"], count: int, world: World
) -> tuple[Int[np.ndarray, "n c"], Float[np.ndarray, "n c"]]:
    """The nearest centroids of each row, nearest first, and the cosines, on every rank."""
    columns = torch.from_numpy(centroids).to(world.device).T
    labels = np.empty((rows.count, count), np.int32)  # made at once: small pieces would scatter the heap
    cosines = np.empty((rows.count, count), np.float32)
    with agreed():
        for number in dealt(rows.num_blocks, world):
            block = rows.block(number, world.device)
            if count == 1:
                values, places = (found[:, None] for found in _nearest(block, columns))
            else:
                values, places = (block @ columns).topk(count)
            own = slice(number * BLOCK, number * BLOCK + len(block))
            labels[own], cosines[own] = places.int().cpu().numpy(), values.cpu().numpy()
    shares = (dealt(rows.num_blocks, replace(world, rank=rank)) for rank in range(world.size))
    ends = [min(share.stop * BLOCK, rows.count) for share in shares]
    for found in (labels, cosines):
        take_from_owners(torch.from_numpy(found), ends)
    return labels, cosines


def _one_pass(
    rows: Rows, centroids: Float[Tensor, "k d"], world: World
) -> tuple[Int64[Tensor, "k d"], Int64[Tensor, " k"], float]:
    """Sums and counts of the clusters, and the mean cosine, over all ranks."""
    sums = torch.zeros(centroids.shape, dtype=torch.int64, device=world.device)
    counts = torch.zeros(len(centroids), dtype=torch.int64, device=world.device)
    total = torch.zeros((), dtype=torch.int64, device=world.device)
    with agreed():
        for number in dealt(rows.num_blocks, world):
            block = rows.block(number, world.device)
            best, labels = _nearest(block, centroids.T)
            sums.index_add_(0, labels, _in_units(block))
            counts += labels.bincount(minlength=len(centroids))
            total += _in_units(best).sum()
    sums, counts, total = rank_sum(sums), rank_sum(counts), rank_sum(total)
    return sums.cpu(), counts.cpu(), total.item() / _UNIT / rows.count


def _nearest(block: Float[Tensor, "b d"], columns: Float[Tensor, "d k"]) -> tuple[Tensor, Tensor]:
    """The largest cosine of each row and whose it is, the first of equals; so many centroids at a time."""
    best, labels = (block @ columns[:, :CENTROIDS_AT_ONCE]).max(1)
    for start in range(CENTROIDS_AT_ONCE, columns.shape[1], CENTROIDS_AT_ONCE):
        values, places = (block @ columns[:, start : start + CENTROIDS_AT_ONCE]).max(1)
        labels = torch.where(values > best, places + start, labels)
        best = torch.maximum(values, best)
    return best, labels


def _in_units(values: Tensor) -> Tensor:
    return (values.double() * _UNIT).round().long()


def _renewed(
    sums: Int64[Tensor, "k d"], counts: Int64[Tensor, " k"], before: Float[np.ndarray, "k d"]
) -> Float[np.ndarray, "k d"]:
    """The directions of the sums; empty clusters take half of the largest ones."""
    directions = sums.double() / _UNIT
    still = directions.norm(dim=1) < 1e-9  # rows that cancel each other have no direction
    directions[still] = torch.from_numpy(before).double()[still]
    directions = normalize(directions, dim=1)
    largest_first = [(-size, place) for place, size in enumerate(counts.tolist())]
    heapq.heapify(largest_first)
    apart = torch.full((directions.shape[1],), _SHIFT * directions.shape[1] ** -0.5, dtype=torch.float64)
    apart[1::2] *= -1
    for empty in (place for place, size in enumerate(counts.tolist()) if size == 0):
        size, largest = heapq.heappop(largest_first)
        directions[empty] = directions[largest] + apart
        directions[largest] = directions[largest] - apart
        half = -size // 2
        heapq.heappush(largest_first, (-half, empty))
        heapq.heappush(largest_first, (size + half, largest))
    return normalize(directions, dim=1).float().numpy()


def _start(rows: Rows, num_clusters: int, generator: np.random.Generator, world: World) -> Float[np.ndarray, "k d"]:
    """The first centroids: rank 0 chooses for all."""
    chosen = torch.empty(num_clusters, rows.width, device=world.device)
    if world.rank == 0:
        wanted = num_clusters * (SAMPLE_PER_CLUSTER if num_clusters <= MOST_PLUS_PLUS else 1)
        places = np.sort(generator.permutation(rows.count)[:wanted])
        sample = rows.take(places, world.device)
        chosen = sample if num_clusters > MOST_PLUS_PLUS else plus_plus(sample, num_clusters, generator)
        chosen = chosen.contiguous()
    take_from_first(chosen)
    return chosen.cpu().numpy()


def plus_plus(points: Float[Tensor, "n d"], num_clusters: int, generator: np.random.Generator) -> Float[Tensor, "k d"]:
    """Centroids by k-means++: each next one is a point, drawn with the squared distance to the nearest so far.

    Args:
        points: of length 1.
        num_clusters: k.
        generator: what is drawn with.
    """
    first = int(generator.integers(len(points)))
    chosen, nearest = [first], torch.full((len(points),), -1.0, device=points.device)
    while len(chosen) < num_clusters:
        nearest = torch.maximum(nearest, points @ points[chosen[-1]])
        away: Float64[np.ndarray, " n"] = (1 - nearest.double()).clamp_min(0).cpu().numpy()
        away[chosen] = 0
        ends = away.cumsum()
        if ends[-1] <= 0:  # fewer different points than clusters
            left = np.setdiff1d(np.arange(len(points)), chosen)
            chosen += left[: num_clusters - len(chosen)].tolist()
            break
        chosen.append(int(np.searchsorted(ends, generator.random() * ends[-1], side="right").clip(0, len(points) - 1)))
    return points[torch.tensor(chosen, device=points.device)]


def keep(state: Path, key: str, found: KMeans, ended: bool) -> None:
    """Writes clusters to a file, with the question that they answer, and whether they are final.

    Raises:
        UserError: it cannot be written.
    """
    note = {"key": key, "objective": found.objective, "iterations": found.iterations, "ended": ended}
    stream = io.BytesIO()
    np.savez(stream, centroids=found.centroids, note=np.frombuffer(json.dumps(note).encode(), np.uint8))
    write_state(state, stream.getvalue())


def write_state(path: Path, content: bytes) -> None:
    """Writes what an interrupted command goes on from.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space, and run the same again") from error


def kept_clusters(state: Path | None, key: str) -> tuple[KMeans, bool] | None:
    """What ``keep`` left, and whether it is final; None where there is nothing, or the answer to another question."""
    if state is None or not state.is_file():
        return None
    try:
        with np.load(state, allow_pickle=False) as file:
            note, centroids = json.loads(file["note"].tobytes()), file["centroids"]
        found = KMeans(centroids=centroids, objective=note["objective"], iterations=note["iterations"])
        return (found, bool(note["ended"])) if note["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
