"""Multi-crop: two large views of an image and several small ones (SwAV, Caron et al. 2020, arXiv:2006.09882, 3.3).

Small views cost little, and what they show is a part of what the large ones show: so a method can ask for the whole
from a part.
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.encoders import features, vary_sizes

NUM_LARGE = 2
CROP_ROWS = ("large view", "other large view", "last view, enlarged")
"""What ``pictured_crops`` shows."""


def accept_crops(encoder: nn.Module, num_small: int, small: RandomView) -> None:
    """Lets the encoder see small views beside those of its own size.

    Raises:
        UserError: it cannot.
    """
    if not num_small:
        return
    vary_sizes(encoder)
    patch = getattr(getattr(encoder, "patch_embed", None), "patch_size", (1,))[0]
    if small.size % patch:
        raise UserError(
            f"objective.small.size {small.size}: must be a multiple of the encoder's patches of {patch} pixels,"
            f" for instance {max(1, round(small.size / patch)) * patch}"
        )


def encode_crops(encoder: nn.Module, views: list[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "v b d"]:
    """Features of each view; those of one size that follow each other go through the encoder in one pass.

    Batch norm therefore sees views of one size together, as in the code of SwAV and DINO.
    """
    passes = [list(alike) for _, alike in groupby(views, key=lambda view: view.shape)]
    return torch.cat([features(encoder, torch.cat(alike)).unflatten(0, (len(alike), -1)) for alike in passes])


def pictured_crops(views: list[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "rows columns c h w"]:
    """The large views of a few samples, and the last one of each: a small one where there are any."""
    shown = [view[:NUM_PICTURED].float() for view in (*views[:NUM_LARGE], views[-1])]
    return torch.stack([F.interpolate(view, size=views[0].shape[-2:], mode="nearest") for view in shown])
