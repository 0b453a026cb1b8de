"""Clustering as ``clustering.py`` has it, on features that are read in pieces, by the ranks together.

k-means is another one: spherical, in single precision, the best of ``RESTARTS`` starts, learned from a sample of
``PER_CLUSTER`` rows for each cluster (``eval/search/kmeans.py``); so the metric has another name.
"""

import numpy as np
from jaxtyping import Int

from eyespot.eval.protocols.clustering import compared
from eyespot.eval.protocols.many_rows.streamed_task import StreamedTask
from eyespot.eval.protocols.task import Candidate
from eyespot.eval.search.kmeans import assigned, kmeans
from eyespot.eval.search.row_file import Rows
from eyespot.pretrain.distributed.process_group import World

RESTARTS = 3


def streamed_clusters(rows: Rows, num_clusters: int, seed: int, world: World) -> Int[np.ndarray, " n"]:
    """The cluster of each row, on every rank.

    Args:
        rows: what to cluster.
        num_clusters: k, at most as many as rows.
        seed: of the starts.
        world: this process.
    """
    tried = [kmeans(rows, num_clusters, seed=seed + start, world=world) for start in range(RESTARTS)]
    best = max(tried, key=lambda found: found.objective)
    return assigned(rows, best.centroids, world)[0].astype(np.int64)


def candidates(task: StreamedTask) -> list[Candidate]:
    """As ``clustering.candidates``."""
    held, labels, found = task.train_labels[task.held], task.test_labels, []
    for kind, test in task.test.items():
        tried = streamed_clusters(task.train[kind].some(task.held), len(np.unique(held)), task.seed, task.world)
        assigned_to = streamed_clusters(test, len(np.unique(labels)), task.seed, task.world)
        found.append(compared(f"clustering/spherical_kmeans_{kind}_l2", kind, (held, tried), (labels, assigned_to)))
    return found
