"""KoLeo: rows spread evenly over the sphere (Sablayrolles et al. 2018, arXiv:1806.03198; DINOv2, arXiv:2304.07193).

The Kozachenko-Leonenko estimator of differential entropy from distances between neighbours: whoever is crowded moves
away from its nearest neighbour. With z the unit vectors of all n rows (DINOv2, section 4),

    L = - 1/n sum_i log min over j != i of |z_i - z_j|.

The rows are those of all ranks, so the loss does not depend on how many there are; DINOv2's code looks for neighbours
among the rows of one GPU only.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from eyespot.pretrain.distributed.collectives import gather_with_gradient, num_ranks

SMALLEST = 1e-8
"""Added to each distance, which may be 0."""


def koleo(rows: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """This rank's part: the mean of the parts is the loss of all ranks' rows; 0 where there is one row only.

    The gradient is that of the sum of all ranks' parts: it also moves the neighbours, whosever they are. Rows that are
    equal have none.

    Args:
        rows: this rank's, as many as the others'; need not be normalised.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    with torch.autocast(rows.device.type, enabled=False):
        units = F.normalize(rows.to(wide), dim=1)
        everyone = gather_with_gradient(units)
        if len(everyone) == 1:
            return (0 * units).sum()
        with torch.no_grad():
            cosines = units @ everyone.T
            own = torch.arange(len(units), device=units.device) + len(units) * _rank()
            nearest = cosines.scatter(1, own[:, None], -2.0).argmax(1)
        squares = (units - everyone[nearest]).square().sum(1)
        return -((squares + SMALLEST**2).sqrt() + SMALLEST).log().mean()


def _rank() -> int:
    return torch.distributed.get_rank() if num_ranks() > 1 else 0
