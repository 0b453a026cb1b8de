"""Prototypes: learned directions that features are compared with, and assignments in which all get an equal share.

What SwAV clusters by, and what DINO's head ends in.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.pretrain.distributed.collectives import rank_sum


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


@torch.no_grad()
def balanced(
    cosines: Float[Tensor, "b k"], epsilon: float, num_rounds: int, counted: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, "b k"]:
    """Soft assignments of samples to prototypes that give each prototype an equal share of all ranks' samples.

    Sinkhorn-Knopp (Cuturi 2013; SwAV, equations 3 to 5 and its appendix A). With B rows on all ranks, K columns and
    Q = exp(cosines / epsilon), each round makes the columns' sums B / K, then the rows' sums 1. After the last round
    the rows are exact and the columns nearly so.

    Args:
        cosines: of this rank's rows; ranks may have different numbers of them.
        epsilon: smoothness; the smaller, the harder the assignments. At least 0.025, so that nothing underflows.
        num_rounds: how often.
        counted: which rows there are; None = all. It is as if the others were not there, where only the device knows.

    Returns:
        Rows that sum to 1, in float32 at least; of a row that is not there zeros.
    """
    wide = cosines.to(torch.promote_types(cosines.dtype, torch.float32))
    assignments = ((wide - 1) / epsilon).exp()
    num_rows = wide.new_full((), len(wide))
    if counted is not None:
        assignments, num_rows = assignments * counted[:, None], counted.sum().to(wide.dtype)
    share = rank_sum(num_rows) / wide.shape[1]
    for _ in range(num_rounds):
        assignments = assignments * (share / rank_sum(assignments.sum(0)))
        of_rows = assignments.sum(1, keepdim=True)
        assignments = assignments / (of_rows if counted is None else of_rows.where(counted[:, None], 1.0))
    return assignments
