"""Clusters of all features of a data set: whitened, k-means, none empty, numbered as the clusters before.

Everything is a function of its input: the same features give the same clusters, on any number of threads.
"""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

AT_ONCE = 8192
"""Rows that are widened to double precision at once, and that k-means sees at once, at least."""
PASSES = 20
"""Of k-means over the rows."""


def whitened(features: Float[Tensor, "n d"], dim: int) -> Float32[Tensor, "n k"]:
    """The largest principal components, each divided by its standard deviation; then unit rows.

    Components within the rounding of the features' own type are left out, or whitening would make noise of them; where
    all features are alike, one component is left, of zeros.

    Args:
        features: a row per sample.
        dim: components that are kept, at most.
    """
    mean = features.mean(0, dtype=torch.float64)
    scatter = features.new_zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for rows in features.split(AT_ONCE):
        centred = rows.double() - mean
        scatter += centred.T @ centred
    squares, directions = torch.linalg.eigh(scatter)
    noise = (torch.finfo(features.dtype).eps * torch.linalg.vector_norm(features, dtype=torch.float64)) ** 2
    kept = int((squares[-dim:] > noise).sum())
    if not kept:
        return torch.zeros(len(features), 1)
    scaled = directions[:, -kept:] * (len(features) / squares[-kept:]).sqrt()
    return torch.cat([normalize((rows.double() - mean) @ scaled, dim=1).float() for rows in features.split(AT_ONCE)])


def clustered(rows: Float[Tensor, "n k"], num_clusters: int) -> Int64[np.ndarray, " n"]:
    """The cluster of each row, by k-means on a part of the rows at a time (Sculley 2010); none is empty.

    Args:
        rows: one per sample.
        num_clusters: at most as many as there are rows.
    """
    from sklearn.cluster import MiniBatchKMeans  # takes seconds to import, and most runs do not need it
    from sklearn.exceptions import ConvergenceWarning

    points, at_once = rows.numpy(), max(AT_ONCE, 2 * num_clusters)
    settings: dict[str, Any] = {"max_iter": PASSES, "max_no_improvement": None, "n_init": 1, "random_state": 0}
    means = MiniBatchKMeans(num_clusters, batch_size=at_once, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters: collapsed features
        assigned = means.fit_predict(points).astype(np.int64)
    return without_empty(points, assigned, num_clusters)


def without_empty(
    points: Float32[np.ndarray, "n k"], assigned: Int64[np.ndarray, " n"], num_clusters: int
) -> Int64[np.ndarray, " n"]:
    """For every empty cluster halves the then largest, along the coordinate in which it is widest.

    Rows that are all alike are halved too: what comes out has no empty cluster, whatever the features.
    """
    assigned = assigned.copy()
    sizes = np.bincount(assigned, minlength=num_clusters)
    for empty in np.flatnonzero(sizes == 0):
        largest = sizes.argmax()
        members = np.flatnonzero(assigned == largest)
        widest = points[members].var(axis=0).argmax()
        order = np.argsort(points[members, widest], kind="stable")
        moved = members[order[len(order) // 2 :]]
        assigned[moved] = empty
        sizes[empty], sizes[largest] = len(moved), len(members) - len(moved)
    return assigned


def renumbered(new: Int[np.ndarray, " n"], old: Int[np.ndarray, " n"], num_clusters: int) -> Int64[np.ndarray, " n"]:
    """The new clusters under the numbers of the old ones, so that as many samples as can be keep theirs.

    One to one, by the Hungarian method. It takes 8 bytes for each pair of clusters, and half a minute for 10,000.
    """
    from scipy.optimize import linear_sum_assignment

    together = np.zeros((num_clusters, num_clusters))
    np.add.at(together, (new, old), 1)
    _, names = linear_sum_assignment(together, maximize=True)
    return names[new].astype(np.int64)


def agreement(one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]) -> float:
    """Normalised mutual information of two partitions: 0 = independent, 1 = the same but for the numbers."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(one, other))
