"""Losses on the statistics of a batch's embeddings: Barlow Twins and VICReg.

Neither has negatives: what keeps the embeddings apart is that their dimensions must not repeat each other. Mean,
variance and covariance are those of the whole batch, over all ranks; what crosses the network is D x D numbers, not
the rows. Each rank gets the loss of its own rows among all, and the backward pass is that of the sum over ranks: after
the mean over ranks that an engine takes, every gradient is that of one process with the whole batch.

Embeddings of any type become float32 here (float64 stays), with autocast off.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.collectives import num_rows, rank_sum


def barlow_twins_loss(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"], weight: float) -> dict[str, Float[Tensor, ""]]:
    """Cross-correlation pulled to the identity (Zbontar et al. 2021, arXiv:2103.03230, equations 1 and 2).

    With C_ij the correlation over the batch of dimension i of one view with dimension j of the other,

        L = sum_i (1 - C_ii)^2 + weight * sum_{i != j} C_ij^2.

    Args:
        x: one view's embeddings, a row per sample.
        y: the other view's, the samples in the same order.
        weight: lambda.

    Returns:
        {"loss", "invariance", "redundancy"}: the sum, and its two terms without the weight.

    Raises:
        UserError: a batch of one, over all ranks.
    """
    count = _require_samples(x)
    with torch.autocast(x.device.type, enabled=False):
        x, y = (_standardized(_wide(rows), count) for rows in (x, y))
        correlation = rank_sum(x.T @ y) / count
        diagonal = correlation.diagonal()
        invariance = (1 - diagonal).square().sum()
        redundancy = correlation.square().sum() - diagonal.square().sum()
    return {"loss": invariance + weight * redundancy, "invariance": invariance, "redundancy": redundancy}


@dataclass(kw_only=True, slots=True, frozen=True)
class VICRegWeights:
    """What VICReg's terms are multiplied by (section 4.2)."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


def vicreg_loss(
    x: Float[Tensor, "b d"], y: Float[Tensor, "b d"], weights: VICRegWeights
) -> dict[str, Float[Tensor, ""]]:
    """Variance, invariance, covariance (Bardes et al. 2022, arXiv:2105.04906, equations 1 to 6).

    With s the mean squared difference of the views, v the mean over dimensions of max(0, 1 - sqrt(Var + 1e-4)) and c
    the sum of squared covariances of different dimensions, divided by D:

        L = w_i s(x, y) + w_v (v(x) + v(y)) / 2 + w_c (c(x) + c(y)).

    The half and the mean over dimensions in s are the authors' code's, whose weights these are.

    Args:
        x: one view's embeddings, a row per sample.
        y: the other view's, the samples in the same order.
        weights: of the terms.

    Returns:
        {"loss", "invariance", "variance", "covariance"}: the sum, and the terms without weights.

    Raises:
        UserError: a batch of one, over all ranks.
    """
    count = _require_samples(x)
    with torch.autocast(x.device.type, enabled=False):
        x, y = _wide(x), _wide(y)
        invariance = (x - y).square().mean()
        variance, covariance = x.new_zeros(()), x.new_zeros(())
        for rows in (x, y):
            centred = rows - rank_sum(rows.sum(0)) / count
            matrix = rank_sum(centred.T @ centred) / (count - 1)
            spread = matrix.diagonal()
            variance = variance + (1 - (spread + 1e-4).sqrt()).clamp_min(0).mean() / 2
            covariance = covariance + (matrix.square().sum() - spread.square().sum()) / len(matrix)
    loss = weights.invariance * invariance + weights.variance * variance + weights.covariance * covariance
    return {"loss": loss, "invariance": invariance, "variance": variance, "covariance": covariance}


def _standardized(rows: Float[Tensor, "b d"], count: int) -> Float[Tensor, "b d"]:
    """As batch norm without scale and shift would."""
    centred = rows - rank_sum(rows.sum(0)) / count
    return centred * (rank_sum(centred.square().sum(0)) / count + 1e-5).rsqrt()


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _require_samples(rows: Tensor) -> int:
    count = num_rows(rows)
    if count < 2:
        raise UserError(f"batch of {count}: statistics of a batch need 2 samples or more; raise data.batch_size")
    return count
