"""Statistics of features, without labels: are they spread out, do they tell images apart?"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def similarities(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> dict[str, Float[Tensor, ""]]:
    """Mean cosines, for an objective to log: of each sample's two views, and of views of different samples.

    With the rows normalised and s_i = x_i + y_i, the sum over all ordered pairs of views of different samples is

        |sum_i s_i|^2 - sum_i |s_i|^2,

    so it takes O(b d) and no matrix. A single row has no negatives; their similarity is then 0.

    Args:
        x: embeddings of one view.
        y: embeddings of the other view of the same samples.
    """
    x, y = (normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1) for rows in (x, y))
    both, count = x + y, len(x)
    negative = (both.sum(0).square().sum() - both.square().sum()) / max(1, 4 * count * (count - 1))
    return {"positive_similarity": (x * y).sum(1).mean(), "negative_similarity": negative}


@torch.no_grad()
def similarities_of_towers(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> dict[str, Float[Tensor, ""]]:
    """Mean cosines, for an objective to log: of each x_i and its y_i, and of x_i and y_j where i and j differ.

    Where x and y are of different kinds, images and captions, two of one kind are not what the loss compares. With the
    rows normalised, the sum over all ordered pairs of different samples is

        sum_i x_i . sum_j y_j - sum_i x_i . y_i.

    A single row has no negatives; their similarity is then 0.

    Args:
        x: embeddings of one kind.
        y: embeddings of the other, of the same samples.
    """
    x, y = (normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1) for rows in (x, y))
    right, count = (x * y).sum(1), len(x)
    negative = (x.sum(0) @ y.sum(0) - right.sum()) / max(1, count * (count - 1))
    return {"positive_similarity": right.mean(), "negative_similarity": negative}


def alignment(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """How far two views of one image lie apart: 0 = together, 2 = as unrelated directions, 4 = opposite.

    Wang & Isola 2020 (arXiv:2005.10242), equation for L_align with alpha = 2, on normalised rows:

        mean_i |x_i - y_i|^2.

    Args:
        x: features of one view.
        y: features of the other view of the same samples.
    """
    x, y = normalize(x.double(), dim=1), normalize(y.double(), dim=1)
    return (x - y).square().sum(1).mean().item()


def uniformity(features: Float[Tensor, "n d"]) -> float:
    """How evenly features cover the sphere: 0 = all in one point, about -4 = spread in all directions.

    Wang & Isola 2020 (arXiv:2005.10242), L_uniform with t = 2, on normalised rows:

        log mean_{i < j} exp(-2 |f_i - f_j|^2).

    Takes O(n) memory beyond the features.

    Args:
        features: one row per sample, two samples or more.
    """
    rows = normalize(features.double(), dim=1)
    squares, count, total = rows.square().sum(1), len(rows), 0.0
    for tile, norms in zip(rows.split(1024), squares.split(1024), strict=True):
        distances = torch.addmm(norms[:, None] + squares, tile, rows.T, alpha=-2)  # of a row to itself: 0
        total += (-2 * distances).exp_().sum().item()
    return math.log((total - count) / (count * (count - 1)))


def singular_values(features: Float[Tensor, "n d"], *, centered: bool) -> Float64[Tensor, " r"]:
    """Singular values, largest first, without those within the rounding of the features' own type.

    Args:
        features: one row per sample, all finite.
        centered: subtract the mean of all rows first.
    """
    wide = features.double()
    noise = torch.finfo(features.dtype).eps * torch.linalg.matrix_norm(wide)
    values = torch.linalg.svdvals(wide - wide.mean(0) if centered else wide)
    return values[values > noise]


def effective_rank(features: Float[Tensor, "n d"], *, centered: bool) -> float:
    """How many directions the features really use, between 1 and min(n, d).

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality"; RankMe (Garrido et al. 2022,
    arXiv:2210.02885) uses it uncentred. With p_k the singular values divided by their sum,

        exp(-sum_k p_k log p_k).

    Singular values within the rounding of the features' own type count as zero: features that never change have
    rank 0 when centred, whatever their last bit does. Features that are not finite have rank nan.

    Args:
        features: one row per sample.
        centered: subtract the mean of all rows first.
    """
    if not features.isfinite().all():
        return math.nan
    return spread_of(singular_values(features, centered=centered))


def spread_of(values: Float[Tensor, " r"]) -> float:
    """exp of the entropy of singular values as shares of their sum; of none 0."""
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item() if len(values) else 0.0
