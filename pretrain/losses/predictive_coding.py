"""InfoNCE of predicted places: which patch lies where one was predicted, among all patches of all images of all ranks.

As for the other contrastive losses: no matrix of all predictions and all patches is stored, rows become float32
(float64 stays), and the backward pass is that of the sum over ranks, so that the mean over ranks that an engine takes
is the gradient of one process with the whole batch.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eyespot.pretrain.distributed.collectives import gather_rows, gather_with_gradient
from eyespot.pretrain.losses.tiled_logsumexp import tiled_lse_of_both


def predictive_coding_loss(
    predictions: Float[Tensor, "b p d"],
    patches: Float[Tensor, "b n d"],
    places: Int[Tensor, " p"],
    *,
    ids: Int[Tensor, " b"],
    group: dist.ProcessGroup | None = None,
) -> tuple[Float[Tensor, "b p"], Bool[Tensor, "b p"]]:
    """InfoNCE of each prediction (van den Oord et al. 2018, arXiv:1807.03748, equation 4).

    With x the prediction and z the patches' rows, of any length, -log exp(x . z_place) / sum_j exp(x . z_j). The sum
    goes over all patches of the prediction's own image and over those of all other images of all ranks. Another view
    of the same image, where a batch holds it twice, is left out: what it shows there may be right as well.

    Args:
        predictions: of each image.
        patches: of each image, what is predicted.
        places: which patch of its image each prediction is of; the same for all images.
        ids: the samples' ids.
        group: the ranks whose patches are negatives; None = the default group, or this process alone.

    Returns:
        The loss of each prediction; and whether, of its own image's patches, the right one is the likeliest.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        wide = torch.promote_types(predictions.dtype, torch.float32)
        predictions, patches = predictions.to(wide), patches.to(wide)
        own = predictions @ patches.transpose(1, 2)
        number = torch.arange(patches.shape[1], device=places.device)
        right = places[:, None] == number
        positives = torch.where(right, own, 0).sum(2)
        others = tiled_lse_of_both(
            predictions.flatten(0, 1),
            gather_with_gradient(patches.flatten(0, 1), group=group),
            query_ids=ids.repeat_interleave(len(places)),
            key_ids=gather_rows(ids.repeat_interleave(len(number)), group=group),
        )
        negatives = torch.where(right, -math.inf, own).logsumexp(2)
        losses = -F.logsigmoid(positives - torch.logaddexp(negatives, others.view_as(negatives)))
        return losses, own.argmax(2) == places
