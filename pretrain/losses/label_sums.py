"""Sums over all ranks' rows of a label: what a supervised contrastive loss needs to know of its positives."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.pretrain.distributed.collectives import all_gather, group_name, named_group, require_equal_batches
from eyespot.pretrain.operators import operator


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, labels, ctx.name = inputs
    ctx.save_for_backward(labels)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    """The map "sum over rows of my label" is symmetric, across ranks too: it is its own transpose."""
    return _label_sums(upstream.contiguous(), *ctx.saved_tensors, ctx.name), None, None


@operator("label_sums", fake=lambda rows, *_: torch.empty_like(rows), keep=_keep, backward=_backward)
def _label_sums(rows: Tensor, labels: Tensor, name: str) -> Tensor:
    """(b, d), (b,) -> (b, d). A label's sum stands where its first row would in the order of labels.

    So the sums have a shape that does not depend on how many labels differ, which no host has to ask a device for.
    """
    if name:
        require_equal_batches(labels, name)
    everybody = all_gather(labels, name).sort().values
    own = torch.searchsorted(everybody, labels)
    sums = rows.new_zeros(len(everybody), rows.shape[1]).index_add_(0, own, rows)
    if name:
        dist.all_reduce(sums, group=named_group(name))
    return sums[own]


def label_sums(
    rows: Float[Tensor, "b d"], labels: Int[Tensor, " b"], *, group: dist.ProcessGroup | None = None
) -> Float[Tensor, "b d"]:
    """For each row, the sum of all ranks' rows with its label, itself among them.

    The gradient is that of the sum over ranks. Memory and traffic are O(rows of all ranks).

    Args:
        rows: any numbers.
        labels: any integers.
        group: the ranks; None = the default group, or this process alone.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    return _label_sums(rows, labels, group_name(group))
