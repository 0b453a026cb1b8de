"""Contrastive losses, exact at any batch size and on any number of ranks.

Each is a short sum on top of one log-sum-exp over negatives (``tiled_lse``, ``gathered_lse``), so none stores a matrix
of similarities. What holds for all of them:

- Embeddings may have any length and type: here they become float32 (float64 stays), then unit vectors; autocast is off.
- A temperature is a float or a 0-dim tensor that may need a gradient; as a float it is faster, down to 0.025.
- Each rank hands in its own rows, all ranks equally many, and gets the mean over its own rows. The backward pass is
  that of the sum over ranks: after the mean over ranks that DDP takes, every gradient is that of one process with the
  whole batch.
- A row's loss is -logsigmoid(positive - log sum exp negatives): the positive is no part of the sum, so the gradient
  keeps its digits where the loss is nearly 0.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.collectives import gather_rows, gather_with_gradient, num_ranks
from eyespot.pretrain.losses.gathered_logsumexp import gathered_lse, gathered_lse_pair
from eyespot.pretrain.losses.label_sums import label_sums
from eyespot.pretrain.losses.tiled_logsumexp import tiled_lse

Scale = float | Float[Tensor, ""]


def nt_xent_loss(
    views: Sequence[Float[Tensor, "b d"]],
    temperature: Scale,
    *,
    group: dist.ProcessGroup | None = None,
    ids: Int[Tensor, " b"] | None = None,
    decoupled: bool = False,
    tau_plus: float = 0.0,
    beta: float = 0.0,
) -> Float[Tensor, ""]:
    """NT-Xent of SimCLR (Chen et al. 2020, arXiv:2002.05709, equation 1), and what was made of it.

    Negatives of a row are all views of all other samples, on all ranks. Each of the views is compared with each other
    one; the loss is the mean over those pairs, with more than two views as well.

    Args:
        views: two or more tensors of one row per sample, the samples in the same order.
        temperature: divides the cosines.
        group: the ranks whose samples are each other's negatives; None = the default group, or this process alone.
        ids: the samples' ids: rows of the same id, from wherever, are no negatives of each other.
        decoupled: leaves the positive out of the denominator (Yeh et al. 2022, arXiv:2110.06848, equation 6).
        tau_plus: the share of negatives that are positives in truth, 0 to 1, which the sum over negatives is corrected
            for (Chuang et al. 2020, arXiv:2007.00224, equation 8, with N the number of negatives and M = 1).
        beta: weighs negatives by exp(beta * logit) (Robinson et al. 2021, arXiv:2010.04592, equation 4); as in the
            authors' code the gradient goes through the weights. It costs two passes.

    Raises:
        UserError: fewer than two views or samples, a temperature that is not above 0, ranks with unequal batches.
    """
    _require_views(views)
    _require_samples(len(views[0]), group)
    with _full_precision(views[0]):
        scale, units = _scale(temperature), [_unit(view) for view in views]
        rows, row_ids = torch.cat(units), None if ids is None else ids.repeat(len(views))
        lse = gathered_lse(rows, scale * (1 + beta), num_views=len(views), ids=row_ids, group=group)
        log_count = _log_num_negatives(units, ids, group) if beta or tau_plus else lse.new_zeros(())
        if beta:
            weights = gathered_lse(rows, scale * beta, num_views=len(views), ids=row_ids, group=group)
            lse = lse - weights + log_count.repeat(len(views))
        losses = []
        for one, other in combinations(range(len(views)), 2):
            positive = (units[one] * units[other]).sum(dim=1) * scale
            for negatives in (lse.chunk(len(views))[one], lse.chunk(len(views))[other]):
                if tau_plus:
                    negatives = _debiased(negatives, positive, log_count, tau_plus, scale)
                losses.append(negatives - positive if decoupled else -F.logsigmoid(positive - negatives))
        return torch.stack(losses).mean()


def moco_loss(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "b d"],
    queue: Float[Tensor, "k d"],
    temperature: Scale,
    *,
    ids: Int[Tensor, " b"] | None = None,
    queue_ids: Int[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE against a queue (MoCo, He et al. 2020, arXiv:1911.05722, equation 1). Only the queries get a gradient.

    Args:
        queries: one row per sample.
        keys: the positives, the teacher's rows of the same samples.
        queue: the negatives, unit vectors already. The keys must not be in it yet.
        temperature: divides the cosines.
        ids: with ``queue_ids``: the samples' ids; entries of a query's own sample are none of its negatives.
        queue_ids: the ids of the queue's samples.

    Raises:
        UserError: a temperature that is not above 0.
    """
    with _full_precision(queries):
        scale, units, positives = _scale(temperature), _unit(queries), _unit(keys.detach())
        lse = tiled_lse(units, queue.to(units.dtype), scale, query_ids=ids, key_ids=queue_ids)
        return -F.logsigmoid((units * positives).sum(dim=1) * scale - lse).mean()


def moco_v3_loss(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "b d"],
    temperature: Scale,
    *,
    group: dist.ProcessGroup | None = None,
    ids: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE of queries against all ranks' keys (MoCo v3, Chen et al. 2021, arXiv:2104.02057, algorithm 1).

    One direction: the objective adds the one with the views swapped. It is the plain mean; the authors' code multiplies
    it by 2 * temperature, which is left to the objective. Only the queries get a gradient.

    Args:
        queries: one row per sample, of one view.
        keys: the teacher's rows of the same samples, of another view.
        temperature: divides the cosines.
        group: the ranks whose keys are negatives; None = the default group, or this process alone.
        ids: the samples' ids: keys of the same id, from wherever, are no negatives of a query.

    Raises:
        UserError: fewer than two samples, a temperature that is not above 0, ranks with unequal batches.
    """
    _require_samples(len(queries), group)
    with _full_precision(queries):
        scale, units, positives = _scale(temperature), _unit(queries), _unit(keys.detach())
        lse = tiled_lse(units, positives, scale, period=len(units), query_ids=ids, key_ids=ids)
        if num_ranks(group) > 1:
            others = _of_other_ranks(positives, group)
            other_ids = None if ids is None else _of_other_ranks(ids, group)
            lse = torch.logaddexp(lse, tiled_lse(units, others, scale, query_ids=ids, key_ids=other_ids))
        return -F.logsigmoid((units * positives).sum(dim=1) * scale - lse).mean()


def _of_other_ranks(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The rows of all ranks but this one."""
    everybody, start = gather_rows(rows, group=group), dist.get_rank(group) * len(rows)
    return torch.cat([everybody[:start], everybody[start + len(rows) :]])


def supcon_loss(
    views: Sequence[Float[Tensor, "b d"]],
    labels: Int[Tensor, " b"],
    temperature: Scale,
    *,
    group: dist.ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """Supervised contrastive loss, L_out of Khosla et al. 2020 (arXiv:2004.11362, equation 2).

    Positives of a row are all other rows of its label, on all ranks; the denominator goes over all rows but itself. It
    is the plain mean over rows; the authors' code multiplies it by temperature / 0.07.

    Args:
        views: two or more tensors of one row per sample, the samples in the same order.
        labels: the samples' labels; a sample without one (-1) has its own other views as positives, and no others.
        temperature: divides the cosines.
        group: the ranks that are compared; None = the default group, or this process alone.

    Raises:
        UserError: fewer than two views, a temperature that is not above 0, ranks with unequal batches.
    """
    _require_views(views)
    with _full_precision(views[0]):
        scale, units = _scale(temperature), torch.stack([_unit(view) for view in views])
        own = units.sum(dim=0)
        counted = torch.cat([own, own.new_full((len(own), 1), len(views))], dim=1)
        same = torch.where(labels[:, None] >= 0, label_sums(counted, labels, group=group), counted)
        positives = (units * (same[:, :-1] - units)).sum(dim=2) * scale / (same[:, -1] - 1)
        lse = gathered_lse(units.flatten(0, 1), scale, group=group)
        return (lse - positives.flatten()).mean()


def clip_loss(
    x: Float[Tensor, "b d"],
    y: Float[Tensor, "b d"],
    logit_scale: Scale,
    *,
    group: dist.ProcessGroup | None = None,
    ids: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of two towers (CLIP, Radford et al. 2021, arXiv:2103.00020, figure 3).

    Args:
        x: one tower's rows.
        y: the other's; row i belongs to x's row i.
        logit_scale: multiplies the cosines: 1 / temperature, not its logarithm.
        group: the ranks that are compared; None = the default group, or this process alone.
        ids: the samples' ids: rows of the same id, from wherever, are no negatives of each other.

    Raises:
        UserError: fewer than two samples, ranks with unequal batches.
    """
    _require_samples(len(x), group)
    with _full_precision(x):
        units_x, units_y = _unit(x), _unit(y)
        positives = (units_x * units_y).sum(dim=1) * logit_scale
        lse_x, lse_y = gathered_lse_pair(units_x, units_y, logit_scale, ids=ids, group=group)
        return -(F.logsigmoid(positives - lse_x) + F.logsigmoid(positives - lse_y)).mean() / 2


def uniformity_loss(
    rows: Float[Tensor, "b d"],
    t: Scale,
    *,
    group: dist.ProcessGroup | None = None,
    ids: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Uniformity (Wang & Isola 2020, arXiv:2005.10242, section 4.2): how far rows are from covering the sphere evenly.

    With z all ranks' unit rows, over all pairs of different samples,

        log mean_{i != j} exp(-t |z_i - z_j|^2),   |z_i - z_j|^2 = 2 - 2 z_i . z_j.

    It is 0 where all rows are alike, and -4 t where any two were opposite; and 0 where all are of one sample, for then
    there is no pair. The same value on every rank.

    Args:
        rows: one per sample.
        t: the kernel's sharpness.
        group: the ranks that are compared; None = the default group, or this process alone.
        ids: the samples' ids: two rows of the same id, from wherever, are no pair.

    Raises:
        UserError: fewer than two samples, ranks with unequal batches.
    """
    _require_samples(len(rows), group)
    with _full_precision(rows):
        units = _unit(rows)
        lse = gathered_lse(units, 2 * t, ids=ids, group=group)
        pairs = _log_sum(_log_num_negatives([units], ids, group), group)
        return torch.where(pairs == -math.inf, 0.0, _log_sum(lse, group) - pairs - 2 * t)


def _log_sum(logs: Float[Tensor, " b"], group: dist.ProcessGroup | None) -> Float[Tensor, ""]:
    """The logarithm of the sum of all ranks' numbers."""
    return gather_with_gradient(logs, group=group).logsumexp(0)


def _debiased(
    lse: Float[Tensor, " b"],
    positive: Float[Tensor, " b"],
    log_count: Float[Tensor, " b"],
    tau_plus: float,
    scale: Scale,
) -> Float[Tensor, " b"]:
    """log max((sum exp negatives - tau+ N exp(positive)) / (1 - tau+), N exp(-scale)), all of it in logarithms."""
    lowest = log_count - scale
    excess = math.log(tau_plus) + log_count + positive - lse
    left = torch.where(excess < 0, excess, -1.0)
    corrected = lse + torch.log(-torch.expm1(left)) - math.log1p(-tau_plus)
    return torch.where(excess < 0, torch.maximum(corrected, lowest), lowest)


def _log_num_negatives(
    units: Sequence[Float[Tensor, "b d"]], ids: Int[Tensor, " b"] | None, group: dist.ProcessGroup | None
) -> Float[Tensor, " b"]:
    """The logarithm of how many rows of all ranks are not of the sample."""
    num_samples = len(units[0]) * num_ranks(group)
    others = units[0].new_full((len(units[0]),), num_samples - 1)
    if ids is not None:
        everybody = gather_rows(ids, group=group).sort().values
        same = torch.searchsorted(everybody, ids, right=True) - torch.searchsorted(everybody, ids)
        others = (num_samples - same).to(others.dtype)
    return (others * len(units)).log()


def _full_precision(rows: Tensor) -> torch.autocast:
    return torch.autocast(rows.device.type, enabled=False)


def _unit(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=1)


def _scale(temperature: Scale) -> Scale:
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise UserError(f"temperature {temperature}: must be above 0")
    return 1 / temperature


def _require_views(views: Sequence[Tensor]) -> None:
    if len(views) < 2:
        raise UserError(f"views {len(views)}: a contrastive loss compares two views or more")


def _require_samples(num_samples: int, group: dist.ProcessGroup | None) -> None:
    if num_samples * num_ranks(group) < 2:
        raise UserError("batch size 1: a contrastive loss needs two samples or more")
