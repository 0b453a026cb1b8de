"""Numbers of features that need no label: how many directions they use, how evenly, and whether they collapsed.

The numbers, of whole test images, for each kind of features:

    rankme                    effective rank of the features as they are: RankMe (Garrido et al. 2022, arXiv:2210.02885)
    effective_rank_centered   the same around their mean
    alpha_req                 decay of the covariance's eigenvalues (Agrawal et al. 2022, alpha-ReQ)
    uniformity                on the sphere (Wang & Isola 2020, arXiv:2005.10242)
    alignment                 of different images of one class, where there are labels (L_align of the same paper)
    negative_similarity       mean cosine of different images
    dead_dimensions           share of dimensions that never change
    dimensions                how many there are

Training watches the first ones on its own samples and views: ``pretrain/losses/feature_statistics.py`` has
these functions.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import Score
from eyespot.pretrain.losses.feature_statistics import singular_values
from eyespot.pretrain.monitors import collapse

MAX_SAMPLES = 25_600
"""As many as RankMe is measured on; of more, a random choice."""
FIRST, LAST = 4, 100
"""Ranks of the eigenvalues that alpha-ReQ's line is fitted to: the range of the authors' code."""
DEAD_DEVIATION = 1e-6
"""A dimension is dead whose standard deviation is below this share of its mean or of the largest deviation."""
MANY_DEAD = 0.25


def alpha_req(features: Float[Tensor, "n d"]) -> float:
    """Decay of the eigenvalues of the features' covariance: the a of lambda_j ~ j^-a.

    Agrawal et al. 2022, "alpha-ReQ: assessing representation quality in self-supervised learning by measuring
    eigenspectrum decay". Near 1 is what they find in good encoders; large: few directions carry nearly everything;
    near 0: all directions alike, as noise has them. The line through (log j, log lambda_j), j = 4..100, is fitted by
    least squares with weights 1/j, as their code does; nan where fewer than two such eigenvalues are left.

    Args:
        features: one row per sample.
    """
    return eigenvalue_decay(singular_values(features, centered=True))


def eigenvalue_decay(singular: Float64[Tensor, " r"]) -> float:
    """``alpha_req`` of features around their mean whose singular values are known, largest first."""
    values = singular[FIRST - 1 : LAST].cpu()
    if len(values) < 2:
        return math.nan
    ranks = torch.arange(FIRST, FIRST + len(values), dtype=torch.float64)
    x, y, weights = ranks.log(), values.square().log(), 1 / ranks / (1 / ranks).sum()
    x, y = x - weights @ x, y - weights @ y
    return -((weights * x) @ y / ((weights * x) @ x)).item()


def class_alignment(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> float:
    """Mean squared distance, on the sphere, of two different images of one class: 0 = together, 2 = unrelated.

    L_align of Wang & Isola 2020 with alpha = 2, where images of one class are the positive pairs. The sum over all
    ordered pairs of a class of m rows with sum s is 2 (m^2 - |s|^2): no pair is formed.

    Args:
        features: one row per sample, L2-normalised here.
        labels: their classes; rows below 0 have none and are left out. nan where no class has two samples.
    """
    known = labels >= 0
    _, places = labels[known].unique(return_inverse=True)
    rows = normalize(features[known].double(), dim=1)
    counts = places.bincount().double()
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, places, rows)
    squares = rows.new_zeros(len(counts)).index_add_(0, places, rows.square().sum(1))
    distances = 2 * (counts * squares - sums.square().sum(1)).sum()
    return (distances / (counts * (counts - 1)).sum()).item()


def dead_share(features: Float[Tensor, "n d"]) -> float:
    """Share of the dimensions that are the same for every sample, up to rounding."""
    deviation, mean = _moments(features)
    least = DEAD_DEVIATION * torch.maximum(mean.abs(), deviation.max())
    return (deviation <= least).double().mean().item()


def label_free_numbers(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """All numbers of this protocol; those that cannot be had (no labels, too few dimensions) are left out.

    Args:
        features: one row per sample, two samples or more.
        labels: their classes, -1 where there is none.
    """
    watched = collapse.collapse_statistics([features])
    found = {
        "rankme": watched["effective_rank"],
        "effective_rank_centered": watched["effective_rank_centered"],
        "alpha_req": alpha_req(features),
        "uniformity": watched["uniformity"],
        "alignment": class_alignment(features, labels),
        "negative_similarity": watched["negative_similarity"],
        "dead_dimensions": dead_share(features),
        "dimensions": float(features.shape[1]),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def alarms(found: dict[str, float], num_samples: int) -> list[str]:
    """What is wrong with features of these numbers, in plain words; nothing where nothing is."""
    dim, said = int(found["dimensions"]), []
    similarity, rank = found["negative_similarity"], found["effective_rank_centered"]
    possible = min(num_samples - 1, dim)
    if similarity > collapse.COLLAPSED_SIMILARITY:
        said.append(f"collapsed to a point: different images have a mean cosine of {similarity:.4f}")
    if rank < max(collapse.COLLAPSED_RANK, collapse.COLLAPSED_SHARE * possible):
        said.append(f"collapsed to a line: around their mean they use {rank:.1f} of {possible} possible directions")
    if found["dead_dimensions"] >= MANY_DEAD:
        dead = round(found["dead_dimensions"] * dim)
        said.append(f"{dead} of {dim} dimensions are dead: they are the same for every image")
    return said


def candidates(task: Task) -> list[Candidate]:
    """The numbers of every kind of features, together: nothing is chosen here."""
    count = len(task.test_labels)
    rows = np.arange(count)
    if count > MAX_SAMPLES:
        rows = np.sort(np.random.default_rng(task.seed).permutation(count)[:MAX_SAMPLES])
    chosen = torch.from_numpy(rows).to(task.test_labels.device)
    scores, said = {}, []
    for kind, features in task.test.items():
        found = label_free_numbers(features[chosen], task.test_labels[chosen])
        scores |= {f"{kind}/{name}": Score(value=value) for name, value in found.items()}
        said += [f"{kind} features: {alarm}" for alarm in alarms(found, len(rows))]
    return [Candidate(metric="unlabeled", scores=scores, alarms=said)]


def _moments(features: Float[Tensor, "n d"]) -> tuple[Float64[Tensor, " d"], Float64[Tensor, " d"]]:
    wide = features.double()
    return wide.std(0, correction=0), wide.mean(0)
