"""Sums over all ranks that gradients pass through: statistics of the whole batch where each rank holds a part of it."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group  # pyright: ignore[reportPrivateImportUsage]

from eyespot.data_pipeline.errors import UserError


def num_ranks(group: dist.ProcessGroup | None) -> int:
    """Ranks of the group; of the default group where there is one; else 1."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def group_name(group: dist.ProcessGroup | None) -> str:
    """The name by which an operator finds the group; "" where this process is alone."""
    if num_ranks(group) == 1:
        return ""
    return (group or dist.distributed_c10d._get_default_group()).group_name


def named_group(name: str) -> dist.ProcessGroup:
    """The group of that name: operators take strings, not groups."""
    return _resolve_process_group(name)  # pyright: ignore[reportArgumentType]


def all_rows(rows: Tensor, name: str) -> Tensor:
    """(n, ...) of every rank -> (ranks * n, ...). For use inside an operator."""
    group = named_group(name)
    gathered = rows.new_empty((group.size() * len(rows), *rows.shape[1:]))
    dist.all_gather_single(gathered, rows.contiguous(), group=group)
    return gathered


def require_equal_batches(rows: Tensor, name: str) -> None:
    """Compares the ranks' numbers of rows, 8 bytes each: unequal ones would hang, abort or mix rows up.

    Raises:
        UserError: on every rank, when one has another number of rows.
    """
    counts = all_rows(torch.tensor([len(rows)], device=rows.device), name).tolist()
    if len(set(counts)) > 1:
        raise UserError(f"batch: the ranks have {counts} rows; give every rank the same number")


@torch.library.custom_op("eyespot::gather_rows", mutates_args=())
def gather_rows(rows: Tensor, name: str) -> Tensor:
    """(n, ...) of every rank -> (ranks * n, ...), without gradient."""
    require_equal_batches(rows, name)
    return all_rows(rows, name)


@gather_rows.register_fake
def _(rows: Tensor, name: str) -> Tensor:
    return rows.new_empty((named_group(name).size() * len(rows), *rows.shape[1:]))


@torch.library.custom_op("eyespot::rank_sum", mutates_args=())
def _rank_sum(part: Tensor, name: str) -> Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    if name:
        dist.all_reduce(total, group=named_group(name))
    return total


@_rank_sum.register_fake
def _(part: Tensor, name: str) -> Tensor:
    return torch.empty_like(part)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, ctx.name = inputs


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    """Every rank's loss depends on every rank's part."""
    return _rank_sum(upstream.contiguous(), ctx.name), None


_rank_sum.register_autograd(_backward, setup_context=_setup)


def rank_sum(part: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of all ranks' tensors of this shape, on each of them.

    Its gradient is that of the sum over ranks of what each makes of it.

    Args:
        part: any numbers; of the same shape everywhere.
        group: the ranks; None = the default group, or this process alone.
    """
    return _rank_sum(part, group_name(group))


def num_rows(rows: Tensor, *, group: dist.ProcessGroup | None = None) -> int:
    """Rows of all ranks together, each of which has as many."""
    name = group_name(group)
    return len(rows) * (named_group(name).size() if name else 1)


def every_row(rows: Float[Tensor, "b d"], *, group: dist.ProcessGroup | None = None) -> Float[Tensor, "n d"]:
    """The rows of all ranks, rank after rank, on each of them.

    Its gradient is that of the sum over ranks of what each makes of them.

    Args:
        rows: this rank's.
        group: the ranks; None = the default group, or this process alone.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    name = group_name(group)
    if not name:
        return rows
    require_equal_batches(rows, name)
    ranks, count = named_group(name), len(rows)
    before, after = ranks.rank() * count, (ranks.size() - ranks.rank() - 1) * count
    return _rank_sum(F.pad(rows, (0, 0, before, after)), name)


def mean_where(
    values: Float[Tensor, " b"], mask: Bool[Tensor, " b"], *, group: dist.ProcessGroup | None = None
) -> Float[Tensor, ""]:
    """This rank's part of the mean over the chosen values of all ranks: the mean of the parts is that mean.

    Ranks may have chosen differently many, or none. Where no rank has chosen any it is 0, and so is the gradient.

    Args:
        values: this rank's.
        mask: which are chosen.
        group: the ranks; None = the default group, or this process alone.
    """
    chosen = rank_sum(mask.sum().to(values.dtype), group=group).clamp_min(1)
    return torch.where(mask, values, 0).sum() / chosen * (num_rows(values, group=group) / len(values))
