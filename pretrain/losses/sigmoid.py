"""The sigmoid loss of pairs (SigLIP, Zhai et al. 2023, arXiv:2303.15343), exact at any batch size and number of ranks.

Each pair of the batch is a question of its own, so there is no sum over negatives to normalise by: a rank looks at its
own rows of one tower and at all ranks' rows of the other, a rank's at a time (``rank_blocks``: gathered where they are
few, handed round a ring where they are many). The matrix of logits is walked in tiles and never stored. The backward
pass goes round once more, with both towers' rows, and computes every tile again: each rank finds the whole gradient of
its own rows, so no gradient crosses the network. What holds for embeddings, gradients and ranks is what holds in
``losses.contrastive``.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.pretrain.distributed.collectives import all_gather, gather_rows, group_name, require_equal_batches
from eyespot.pretrain.losses.rank_blocks import rank_blocks, to_be_gathered
from eyespot.pretrain.losses.tiled_logsumexp import TILE_ROWS
from eyespot.pretrain.operators import operator


def sigmoid_loss(
    x: Float[Tensor, "b d"],
    y: Float[Tensor, "b d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    *,
    ids: Int[Tensor, " b"],
    group: dist.ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """-1/N sum_i sum_j log sigmoid(z_ij (scale x_i . y_j + bias)) over all ranks' N rows; z_ij = 1 for i = j, else -1.

    Args:
        x: one tower's rows.
        y: the other's; row i belongs to x's row i.
        scale: multiplies the cosines.
        bias: is added to them.
        ids: the samples' ids: two rows of the same id, from wherever, make no pair.
        group: the ranks that are compared; None = the default group, or this process alone.

    Raises:
        UserError: ranks with unequal batches.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = _unit(x), _unit(y)
        positives = scale * (x * y).sum(dim=1) + bias
        gathered = gathered_ids = None
        if to_be_gathered(y, group):
            gathered, gathered_ids = gather_rows(y.detach(), group=group), gather_rows(ids, group=group)
        negatives = _negatives(x * scale, y, bias.to(x.dtype), ids, gathered, gathered_ids, group_name(group))
        return (negatives - F.logsigmoid(positives)).mean()


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=1)


def _tiles(
    rows: Tensor, columns: Tensor, bias: Tensor, row_ids: Tensor, column_ids: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Which rows, which columns, and their logits; -inf where the ids are the same.

    The bias is added to the products and is no channel of theirs: a GPU may round what it multiplies.
    """
    size = TILE_ROWS.get(rows.device.type, TILE_ROWS["cuda"])
    for i in range(0, len(rows), size):
        for j in range(0, len(columns), size):
            top, left = slice(i, i + size), slice(j, j + size)
            logits = torch.addmm(bias, rows[top], columns[left].T)
            yield top, left, logits.masked_fill_(row_ids[top, None] == column_ids[None, left], -torch.inf)


def _add_gradients(
    of_rows: Tensor | None,
    of_columns: Tensor | None,
    of_bias: Tensor | None,
    upstream: Tensor,
    rows: Tensor,
    columns: Tensor,
    bias: Tensor,
    row_ids: Tensor,
    column_ids: Tensor,
) -> None:
    """Adds what reaches rows, columns and bias, whichever are asked for, from a row's sum of log(1 + exp(logit))."""
    for top, left, logits in _tiles(rows, columns, bias, row_ids, column_ids):
        weights = logits.sigmoid_().mul_(upstream[top, None])
        if of_bias is not None:
            of_bias.add_(weights.sum())
        if of_rows is not None:
            of_rows[top].addmm_(weights, columns[left])
        if of_columns is not None:
            of_columns[left].addmm_(weights.T, rows[top])


@operator(
    "sigmoid_negatives_backward",
    fake=lambda upstream, rows, *_: rows.new_empty(2 * rows.numel() + 1),
)
def _negatives_backward(
    upstream: Tensor,
    rows: Tensor,
    columns: Tensor,
    bias: Tensor,
    ids: Tensor,
    gathered: Tensor | None,
    gathered_ids: Tensor | None,
    name: str,
) -> Tensor:
    """(b,), (b, d), (b, d), () -> (2bd + 1,): the gradient of the sum over all ranks.

    Of the rows, of the columns, and of the bias, where only the own rows count: others' have their own rank's.
    """
    known = None
    if gathered is not None and gathered_ids is not None:
        known = [gathered, gathered_ids, all_gather(rows, name), all_gather(upstream, name)]
    blocks = rank_blocks([columns, ids, rows, upstream], known, name)
    with torch.autocast(rows.device.type, enabled=False):
        of_rows, of_columns, of_bias = torch.zeros_like(rows), torch.zeros_like(columns), torch.zeros_like(bias)
        next(blocks)
        _add_gradients(of_rows, of_columns, of_bias, upstream, rows, columns, bias, ids, ids)
        for other_columns, other_ids, other_rows, other_upstream in blocks:
            _add_gradients(of_rows, None, of_bias, upstream, rows, other_columns, bias, ids, other_ids)
            _add_gradients(None, of_columns, None, other_upstream, other_rows, columns, bias, other_ids, ids)
        return torch.cat([of_rows.flatten(), of_columns.flatten(), of_bias.view(1)])


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.name = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    rows = ctx.saved_tensors[0]
    found = _negatives_backward(upstream.contiguous(), *ctx.saved_tensors, ctx.name)
    of_rows, of_columns, of_bias = found.split([rows.numel(), rows.numel(), 1])
    return of_rows.view_as(rows), of_columns.view_as(rows), of_bias.view(()), None, None, None, None


@operator("sigmoid_negatives", fake=lambda rows, *_: rows.new_empty(rows.shape[:1]), keep=_keep, backward=_backward)
def _negatives(
    rows: Tensor,
    columns: Tensor,
    bias: Tensor,
    ids: Tensor,
    gathered: Tensor | None,
    gathered_ids: Tensor | None,
    name: str,
) -> Tensor:
    """(b, d), (b, d), () -> (b,): of each row, log(1 + exp(logit)) summed over all ranks' columns of other ids."""
    known = None
    if gathered is not None and gathered_ids is not None:
        known = [gathered, gathered_ids]
    elif name:
        require_equal_batches(columns, name)
    with torch.autocast(rows.device.type, enabled=False):
        sums = rows.new_zeros(len(rows))
        for other, other_ids in rank_blocks([columns, ids], known, name):
            for top, _, logits in _tiles(rows, other, bias, ids, other_ids):
                sums[top] -= F.logsigmoid(-logits).sum(1)
        return sums
