"""Depth maps in numbers that a network can work with, whatever their unit."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEFT_OUT = 0.1
"""Share of the nearest, and of the farthest, that do not count."""
FLATTEST = 1e-3
"""Deviations of less than this share of the distance are a flat wall's noise, and are not magnified."""
LARGEST = 10.0
"""Deviations from the mean."""


def standard_depth(depth: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b 1 h w"], Bool[Tensor, "b 1 h w"]]:
    """Each map less its mean, divided by its standard deviation, both of the middle four fifths of what was measured.

    So do Bachmann et al. 2022 (MultiMAE, arXiv:2204.01678), for a few pixels may be very far away; here these are cut
    at ``LARGEST`` deviations. Where nothing was measured (0) stands the mean, which is 0 now. The unit plays no part,
    and the absolute distance is lost: what is left is which things are in front of which, and by how much compared with
    the others.

    Args:
        depth: distances in any unit; 0 or less where none was measured.

    Returns:
        The standardised map, and where something was measured.
    """
    known = depth > 0
    values = torch.where(known, depth, torch.inf).flatten(1).sort(dim=1).values
    count = known.flatten(1).sum(1, keepdim=True)
    first = (LEFT_OUT * count).floor()
    place = torch.arange(values.shape[1], device=depth.device)
    counted = (place >= first) & (place < count - first)
    number = counted.sum(1, keepdim=True).clamp(min=1)
    mean = torch.where(counted, values, 0).sum(1, keepdim=True) / number
    variance = torch.where(counted, values - mean, 0).square().sum(1, keepdim=True) / number
    deviation = (variance + (FLATTEST * mean).square()).sqrt()
    mean, deviation = (each[..., None, None] for each in (mean, torch.where(count > 0, deviation, 1)))
    return torch.where(known, ((depth - mean) / deviation).clamp(-LARGEST, LARGEST), 0), known
