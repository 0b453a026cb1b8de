"""Clustering: whether the classes are there before anybody names them.

k-means on the L2-normalised features of the test images, with as many clusters as classes; labels only score it. NMI
and ARI compare the two partitions; accuracy gives each cluster one class of its own, by the assignment that is right
most often (Kuhn 1955; the measure of Xie et al. 2016, arXiv:1511.06335).
"""

import warnings

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import Score

RESTARTS = 10
"""Of these the one with the least squared distance counts, which no label has a say in."""


def clusters(features: Float[Tensor, "n d"], num_clusters: int, seed: int) -> Int[np.ndarray, " n"]:
    """The cluster of each row by k-means: the best of several starts by k-means++.

    The rows are first put in an order of their own, so that the same images in another order fall into the same
    clusters.

    Args:
        features: one row per sample, L2-normalised here.
        num_clusters: k, at most n.
        seed: of the starts.
    """
    from sklearn.cluster import KMeans  # scikit-learn takes seconds to import, and most commands do not need it
    from sklearn.exceptions import ConvergenceWarning

    rows = normalize(features.double(), dim=1).cpu().numpy()
    order = np.argsort(rows @ np.random.default_rng(0).normal(size=rows.shape[1]), kind="stable")
    found = np.empty(len(rows), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters: collapsed features
        found[order] = KMeans(num_clusters, n_init=RESTARTS, random_state=seed).fit_predict(rows[order])  # pyright: ignore[reportArgumentType]
    return found


def matched(assigned: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The class of each row, where each cluster gets one class of its own so that most rows are right.

    Args:
        assigned: clusters, 0..; clusters beyond the number of classes get class -1.
        labels: the true classes.
    """
    from scipy.optimize import linear_sum_assignment

    classes, places = np.unique(labels, return_inverse=True)
    together = np.zeros((int(assigned.max()) + 1, len(classes)), np.int64)
    np.add.at(together, (assigned, places), 1)
    names = np.full(len(together), -1, np.int64)
    of_cluster, of_class = linear_sum_assignment(together, maximize=True)
    names[of_cluster] = classes[of_class]
    return names[assigned]


def candidates(task: Task) -> list[Candidate]:
    """k-means by every kind of features; chosen by the NMI of k-means inside the tenth of train."""
    held, labels = task.train_labels[task.held].cpu().numpy(), task.test_labels.cpu().numpy()
    found = []
    for kind, test in task.test.items():
        tried = clusters(task.train[kind][task.held], len(np.unique(held)), task.seed)
        assigned = clusters(test, len(np.unique(labels)), task.seed)
        found.append(compared(f"clustering/kmeans_{kind}_l2", kind, (held, tried), (labels, assigned)))
    return found


def compared(
    metric: str,
    kind: str,
    held: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]],
    test: tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]],
) -> Candidate:
    """What clusters of one kind of features are worth: labels and clusters of a tenth of train, and of test."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return Candidate(
        metric=metric,
        settings={"features": kind},
        validation=float(normalized_mutual_info_score(*held)),
        predictions=matched(test[1], test[0]),
        scores={
            "NMI": Score(value=float(normalized_mutual_info_score(*test))),
            "ARI": Score(value=float(adjusted_rand_score(*test))),
        },
    )
