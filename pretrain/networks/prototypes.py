"""Prototypes: learned directions that features are compared with, and assignments in which all get an equal share.

What SwAV clusters by, and what the heads of DINO, iBOT and DINOv2 end in.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.pretrain.distributed.collectives import num_ranks, rank_max, rank_sum


class Prototypes(nn.Module):
    """Cosines between rows and learned directions: linear, without bias, each weight row used at unit length.

    The length is divided out in the forward pass and not by torch's parametrisation, so any engine may cut the weight
    up, and weight decay, which only shortens it, changes nothing that is computed.

    Args:
        dim: width of a row.
        count: how many directions.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    def forward(self, rows: Float[Tensor, "*b d"], moving: Bool[Tensor, ""] | None = None) -> Float[Tensor, "*b k"]:
        """The cosines, in float32 at least.

        Args:
            rows: need not be normalised.
            moving: False = the directions get a gradient of zero; None = True.
        """
        wide = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            units = F.normalize(self.weight.to(wide), dim=1)
            units = units if moving is None else torch.where(moving, units, units.detach())
            return F.linear(F.normalize(rows.to(wide), dim=-1), units)


class PrototypeHead(nn.Module):
    """Three linear layers with GELU between them, and the cosines of their output with one direction for each score.

    DINO's head (Caron et al. 2021, arXiv:2104.14294, appendix C).

    Args:
        num_features: width of a row.
        hidden_dim: width of the two hidden layers.
        bottleneck_dim: width of what is compared with the directions.
        out_dim: how many directions.
    """

    def __init__(self, num_features: int, hidden_dim: int, bottleneck_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_features, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        for layer in self.layers[::2]:
            nn.init.trunc_normal_(cast(nn.Linear, layer).weight, std=0.02)
            nn.init.zeros_(cast(nn.Linear, layer).bias)
        self.scores = Prototypes(bottleneck_dim, out_dim)

    def forward(self, rows: Float[Tensor, "*b d"], moving: Bool[Tensor, ""] | None = None) -> Float[Tensor, "*b k"]:
        """Scores, between -1 and 1; the directions get a gradient of zero where ``moving`` is False."""
        return self.scores(self.layers(rows), moving)


@torch.no_grad()
def balanced(
    cosines: Float[Tensor, "*p b k"],
    epsilon: float | Float[Tensor, ""],
    num_rounds: int,
    counted: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, "*p b k"]:
    """Soft assignments of samples to prototypes that give each prototype an equal share of all ranks' samples.

    Sinkhorn-Knopp (Cuturi 2013; SwAV, equations 3 to 5 and its appendix A). With B rows on all ranks, K columns and
    Q = exp(cosines / epsilon), each round makes the columns' sums B / K, then the rows' sums 1. After the last round
    the rows are exact and the columns nearly so.

    Args:
        cosines: of this rank's rows; ranks may have different numbers of them. Tables before them are each on its own.
        epsilon: smoothness; the smaller, the harder the assignments. At least 0.025, so that nothing underflows.
        num_rounds: how often.
        counted: which rows there are; None = all. It is as if the others were not there, where only the device knows.
            No rank need have any.

    Returns:
        Rows that sum to 1, in float32 at least; of a row that is not there zeros.
    """
    wide = cosines.to(torch.promote_types(cosines.dtype, torch.float32))
    assignments = ((wide - 1) / epsilon).exp()
    num_rows = wide.new_full((), wide.shape[-2])
    if counted is not None:
        assignments, num_rows = assignments * counted[:, None], counted.sum().to(wide.dtype)
    share = rank_sum(num_rows) / wide.shape[-1]
    for _ in range(num_rounds):
        of_columns = rank_sum(assignments.sum(-2, keepdim=True))
        assignments = assignments * (share / (of_columns if counted is None else of_columns.where(share > 0, 1.0)))
        of_rows = assignments.sum(-1, keepdim=True)
        assignments = assignments / (of_rows if counted is None else of_rows.where(counted[:, None], 1.0))
    return assignments


@torch.no_grad()
def balanced_scores(scores: Float[Tensor, "*p b k"], num_rounds: int) -> Float[Tensor, "*p b k"]:
    """``balanced`` for scores of any size, where exponentials could overflow, or a whole row of them underflow.

    The same rounds on Q = exp(scores), with everything as logarithms. All ranks must have as many rows.

    Args:
        scores: of this rank's rows, already divided by a temperature. Tables before them are each on its own.
        num_rounds: how often.

    Returns:
        Rows that sum to 1, in float32 at least.
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    share = math.log(wide.shape[-2] * num_ranks() / wide.shape[-1])
    of_rows = torch.zeros_like(wide[..., :1])
    of_columns = torch.zeros_like(wide[..., :1, :])
    for _ in range(num_rounds):
        of_columns = share - _log_sum_over_ranks(wide + of_rows)
        of_rows = -(wide + of_columns).logsumexp(-1, keepdim=True)
    return (wide + of_columns).softmax(-1)


def _log_sum_over_ranks(logarithms: Float[Tensor, "*p b k"]) -> Float[Tensor, "*p 1 k"]:
    """Logarithm of each column's sum over all ranks' rows."""
    most = rank_max(logarithms.amax(-2, keepdim=True))
    return most + rank_sum((logarithms - most).exp().sum(-2, keepdim=True)).log()
