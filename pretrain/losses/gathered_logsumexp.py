"""Log-sum-exp over the rows of all ranks: exact, with one exchange of embeddings per step.

Let u_i be the gradient that reaches row i's log-sum-exp, on whichever rank. The logits of one tower are symmetric, so a
rank can compute the whole gradient of its own rows from everybody's rows and two numbers for each,

    d/dz_r sum_i u_i lse_i = scale * sum_j exp(logit_rj) (u_r exp(-lse_r) + u_j exp(-lse_j)) z_j,

and two towers do the same for each other. The backward pass therefore gathers (u, lse), 8 bytes a row in float32; no
gradient crosses the network.

The other ranks' rows are gathered, or handed round a ring (``rank_blocks``), in the forward and again in the backward
pass: twice the traffic, and memory for three ranks' rows only.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.pretrain.distributed.collectives import (
    all_gather,
    gather_rows,
    group_name,
    require_equal_batches,
)
from eyespot.pretrain.losses.rank_blocks import rank_blocks, to_be_gathered
from eyespot.pretrain.losses.tiled_logsumexp import Block, within_bound
from eyespot.pretrain.operators import operator


def _present(*parts: Tensor | None) -> list[Tensor]:
    return [part for part in parts if part is not None]


def _facing_blocks(
    z: Tensor, other: Tensor, ids: Tensor | None, other_ids: list[Tensor], towers: int, bounded: bool
) -> list[Block]:
    """This rank's rows against another's: one tower faces itself, two face each other."""
    column_ids = other_ids[0] if other_ids else None
    return [
        Block(rows=rows, columns=columns, bounded=bounded, row_ids=ids, column_ids=column_ids)
        for rows, columns in zip(z.chunk(towers), reversed(other.chunk(towers)), strict=True)
    ]


def _own_block(z: Tensor, ids: Tensor | None, towers: int, period: int, bounded: bool) -> Block:
    rows, columns = (z, z) if towers == 1 else z.chunk(2)
    return Block(rows=rows, columns=columns, bounded=bounded, period=period, row_ids=ids, column_ids=ids)


@operator("gathered_lse_backward", fake=lambda upstream, lse, z, *_: torch.empty_like(z))
def _gathered_backward(
    upstream: Tensor,
    lse: Tensor,
    z: Tensor,
    gathered: Tensor | None,
    ids: Tensor | None,
    gathered_ids: Tensor | None,
    towers: int,
    period: int,
    bounded: bool,
    name: str,
) -> Tensor:
    """(m,), (m,), (m, d) -> (m, d): the gradient of the sum over all ranks."""
    weights = torch.stack([upstream, lse], dim=1)
    known = None if gathered is None else _present(gathered, all_gather(weights, name), gathered_ids)
    blocks = rank_blocks(_present(z, weights, ids), known, name)
    with torch.autocast(z.device.type, enabled=False):
        next(blocks)
        own = _own_block(z, ids, towers, period, bounded)
        row_weights, column_weights = (weights, weights) if own.symmetric else weights.chunk(2)
        of_rows, of_columns = own.gradients(row_weights, column_weights, both=True)
        gradient = of_rows if own.symmetric else torch.cat([of_rows, of_columns])
        for other, other_weights, *other_ids in blocks:
            facing = _facing_blocks(z, other, ids, other_ids, towers, bounded)
            pairs = zip(facing, weights.chunk(towers), reversed(other_weights.chunk(towers)), strict=True)
            parts = [block.gradients(of_row, of_column)[0] for block, of_row, of_column in pairs]
            gradient += torch.cat(parts)
    return gradient


def _keep_gathered(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.towers, ctx.period, ctx.bounded, ctx.name = inputs
    ctx.save_for_backward(output, *tensors)


def _backward_of_gathered(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    settings = (ctx.towers, ctx.period, ctx.bounded, ctx.name)
    return _gathered_backward(upstream.contiguous(), *ctx.saved_tensors, *settings), *[None] * 7


@operator(
    "gathered_lse", fake=lambda z, *_: z.new_empty(z.shape[:1]), keep=_keep_gathered, backward=_backward_of_gathered
)
def _gathered(
    z: Tensor,
    gathered: Tensor | None,
    ids: Tensor | None,
    gathered_ids: Tensor | None,
    towers: int,
    period: int,
    bounded: bool,
    name: str,
) -> Tensor:
    """(m, d) -> (m,)."""
    if name and gathered is None:
        require_equal_batches(z, name)
    blocks = rank_blocks(_present(z, ids), None if gathered is None else _present(gathered, gathered_ids), name)
    with torch.autocast(z.device.type, enabled=False):
        next(blocks)
        rows, columns = (own := _own_block(z, ids, towers, period, bounded)).lse(both=True)
        lse = rows if own.symmetric else torch.cat([rows, columns])
        for other, *other_ids in blocks:
            parts = [block.lse()[0] for block in _facing_blocks(z, other, ids, other_ids, towers, bounded)]
            lse = torch.logaddexp(lse, torch.cat(parts))
    return lse


def _among_ranks(
    z: Tensor, ids: Tensor | None, towers: int, period: int, bounded: bool, group: dist.ProcessGroup | None
) -> Tensor:
    name, gathered, gathered_ids = group_name(group), None, None
    if to_be_gathered(z, group):
        gathered = gather_rows(z.detach(), group=group)
        gathered_ids = None if ids is None else gather_rows(ids, group=group)
    return _gathered(z, gathered, ids, gathered_ids, towers, period, bounded, name)


def gathered_lse(
    z: Float[Tensor, "m d"],
    scale: float | Float[Tensor, ""],
    *,
    num_views: int = 1,
    ids: Int[Tensor, " m"] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Float[Tensor, " m"]:
    """log sum_j exp(scale * z_i . z_j) of this rank's rows i over all ranks' rows j, those of i's sample left out.

    Args:
        z: unit vectors, float32 or float64, view by view: row v * (m / num_views) + n is view v of sample n.
        scale: 1 / temperature; a tensor may need a gradient.
        num_views: views of each sample. With 1, row i leaves out itself only.
        ids: where one sample may be in a batch twice: the rows' sample ids; rows of equal ids leave each other out.
        group: the ranks; None = the default group, or this process alone.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    root = scale.sqrt() if isinstance(scale, Tensor) else scale**0.5
    return _among_ranks(z * root, ids, 1, len(z) // num_views, within_bound(scale), group)


def gathered_lse_pair(
    x: Float[Tensor, "b d"],
    y: Float[Tensor, "b d"],
    scale: float | Float[Tensor, ""],
    *,
    ids: Int[Tensor, " b"] | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """log sum_j exp(scale * x_i . y_j) over j of every x_i, and over i of every y_j: all ranks' rows, but j != i.

    Args:
        x: unit vectors, float32 or float64.
        y: unit vectors of the same type; row i belongs to x's row i.
        scale: 1 / temperature; a tensor may need a gradient.
        ids: where one sample may be in a batch twice: the rows' sample ids; rows of equal ids leave each other out.
        group: the ranks; None = the default group, or this process alone.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    of_x, of_y = _among_ranks(torch.cat([x * scale, y]), ids, 2, len(x), within_bound(scale), group).chunk(2)
    return of_x, of_y
