"""What the ranks of a run tell each other: rows, sums, Python values, whether to go on. Alone, each is a no-op.

Two orders are told apart. Rank after rank, as a loss needs that finds its own rows again: ``gather_rows``. In the order
in which one process would have met the samples, as a queue needs that must not depend on the number of ranks:
``in_batch_order``.

Operators of torch take strings, not groups: hence a group's ``name``, "" where this process is alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group  # pyright: ignore[reportPrivateImportUsage]

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.pretrain.operators import operator

T = TypeVar("T")

_EQUAL: WeakKeyDictionary[dist.ProcessGroup, set[int]] = WeakKeyDictionary()
"""For each group the numbers of rows that all of its ranks had at once."""


def num_ranks(group: dist.ProcessGroup | None = None) -> int:
    """Ranks of the group; of the default group where there is one; else 1."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def group_name(group: dist.ProcessGroup | None) -> str:
    """The name by which an operator finds the group; "" where this process is alone."""
    if num_ranks(group) == 1:
        return ""
    return (group or dist.distributed_c10d._get_default_group()).group_name


def named_group(name: str) -> dist.ProcessGroup:
    """The group of that name."""
    return _resolve_process_group(name)  # pyright: ignore[reportArgumentType]


def all_gather(rows: Shaped[Tensor, "n *rest"], name: str) -> Shaped[Tensor, "m *rest"]:
    """The rows of all ranks, rank after rank, on each of them: torch's all-gather, without gradient or check.

    Args:
        rows: this rank's; as many on every rank, of one type.
        name: of the group.
    """
    if not name:
        return rows
    group = named_group(name)
    gathered = rows.new_empty((group.size() * len(rows), *rows.shape[1:]))
    dist.all_gather_single(gathered, rows.contiguous(), group=group)
    return gathered


def require_equal_batches(rows: Tensor, name: str) -> None:
    """Compares the ranks' numbers of rows, 8 bytes each: unequal ones would hang, abort or mix rows up.

    Where rows are not on the CPU, the host would wait for the device each time: so a number that all ranks had once is
    not compared again. One rank alone could not tell the others that its number has changed: they do not look, and it
    cannot know that they do not. It need not, because nothing changes there: micro-batches have one length for the
    whole run (``StepBatches`` sees to it), rows are a fixed multiple of them, and all ranks come to the same calls in
    the same order. So ranks that differ do so at the first call, when none knows any number, and all compare.

    Raises:
        UserError: on every rank, when one has another number of rows.
    """
    known = _EQUAL.setdefault(named_group(name), set())
    if len(rows) in known and not rows.is_cpu:
        return
    counts = all_gather(rows.new_full((1,), len(rows), dtype=torch.int64), name).tolist()
    if len(set(counts)) > 1:
        raise UserError(f"batch: the ranks have {counts} rows; give every rank the same number")
    known.add(len(rows))


def _fake_gather(rows: Tensor, name: str) -> Tensor:
    return rows.new_empty((named_group(name).size() * len(rows), *rows.shape[1:]))


@operator("gather_rows", fake=_fake_gather)
def _gather_rows(rows: Tensor, name: str) -> Tensor:
    require_equal_batches(rows, name)
    return all_gather(rows, name)


def gather_rows(
    rows: Shaped[Tensor, "n *rest"], *, group: dist.ProcessGroup | None = None
) -> Shaped[Tensor, "m *rest"]:
    """The rows of all ranks, rank after rank, on each of them; without gradient. One operator, for losses.

    Args:
        rows: this rank's.
        group: the ranks; None = the default group, or this process alone.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    name = group_name(group)
    return _gather_rows(rows, name) if name else rows


def in_batch_order(micro_batches: Shaped[Tensor, "parts b *rest"]) -> Shaped[Tensor, "n *rest"]:
    """The rows of all ranks' micro-batches, in the order in which one process would have met them; without gradient.

    Micro-batch i of rank r comes at place i * ranks + r. Every rank gets all of them, on the rows' device.

    Args:
        micro_batches: the rows of each of this rank's micro-batches; as many on every rank.
    """
    of_ranks = all_gather(micro_batches[None], group_name(None))
    return of_ranks.transpose(0, 1).flatten(0, 2)


def _keep_name(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, ctx.name = inputs


def _backward_of_rank_sum(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    """Every rank's loss depends on every rank's part."""
    return _rank_sum(upstream.contiguous(), ctx.name), None


@operator("rank_sum", fake=lambda part, name: torch.empty_like(part), keep=_keep_name, backward=_backward_of_rank_sum)
def _rank_sum(part: Tensor, name: str) -> Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    if name:
        dist.all_reduce(total, group=named_group(name))
    return total


@operator("rank_max", fake=lambda part, name: torch.empty_like(part))
def _rank_max(part: Tensor, name: str) -> Tensor:
    largest = part.clone(memory_format=torch.contiguous_format)
    if name:
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=named_group(name))
    return largest


def _backward_of_gather(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    """Every rank's loss depends on this rank's rows."""
    ranks = named_group(ctx.name)
    return _rank_sum(upstream.contiguous(), ctx.name).chunk(ranks.size())[ranks.rank()].clone(), None


@operator("gather_with_gradient", fake=_fake_gather, keep=_keep_name, backward=_backward_of_gather)
def _gather_with_gradient(rows: Tensor, name: str) -> Tensor:
    require_equal_batches(rows, name)
    return all_gather(rows, name)


def gather_with_gradient(
    rows: Float[Tensor, "b *rest"], *, group: dist.ProcessGroup | None = None
) -> Float[Tensor, "n *rest"]:
    """The rows of all ranks, rank after rank, on each of them.

    Its gradient is that of the sum over ranks of what each makes of them. One operator, for losses.

    Args:
        rows: this rank's.
        group: the ranks; None = the default group, or this process alone.

    Raises:
        UserError: the ranks' numbers of rows differ.
    """
    name = group_name(group)
    return _gather_with_gradient(rows, name) if name else rows


def rank_sum(part: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of all ranks' tensors of this shape, on each of them.

    Its gradient is that of the sum over ranks of what each makes of it.

    Args:
        part: any numbers; of the same shape everywhere.
        group: the ranks; None = the default group, or this process alone.
    """
    return _rank_sum(part, group_name(group))


@torch.no_grad()
def rank_max(part: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """The largest of all ranks' numbers at each place, on each of them; without gradient.

    Args:
        part: any numbers; of the same shape everywhere.
        group: the ranks; None = the default group, or this process alone.
    """
    return _rank_max(part, group_name(group))


def num_rows(rows: Tensor, *, group: dist.ProcessGroup | None = None) -> int:
    """Rows of all ranks together, each of which has as many."""
    return len(rows) * num_ranks(group)


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


def gather_objects(value: T, *, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's value, by rank; pickled between the processes of one run, never to a file."""
    if not dist.is_initialized():
        return [value]
    gathered = [value] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group=group)
    return gathered


def gather_objects_to_first(value: T) -> list[T] | None:
    """Every rank's value, on rank 0; None on the others. For what is small: it is pickled on the way."""
    if not dist.is_initialized():
        return [value]
    gathered = [value] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered


def take_from_first(tensor: Tensor) -> None:
    """Overwrites it with rank 0's, which has the same shape and type."""
    if dist.is_initialized():
        dist.broadcast(tensor, 0)


def take_from_owners(rows: Shaped[Tensor, "n *rest"], ends: Sequence[int]) -> None:
    """Each rank has written its own rows, neighbours, rank after rank: writes the others' beside them, in place.

    Args:
        rows: of the same shape and type on every rank.
        ends: where each rank's rows end.
    """
    if dist.is_initialized():
        for rank, (start, stop) in enumerate(pairwise([0, *ends])):
            if stop > start:
                dist.broadcast(rows[start:stop], rank)


def any_rank(flags: list[bool]) -> list[bool]:
    """For each flag: does any rank raise it? One small reduction, so that all ranks act at the same step."""
    return any_rank_later(flags)()


def any_rank_later(flags: list[bool]) -> Callable[[], list[bool]]:
    """``any_rank`` begun, over gloo: the answer is what the returned function says, which waits if it must."""
    if not dist.is_initialized():
        return lambda: flags
    raised = torch.tensor(flags, dtype=torch.int32)
    work = dist.all_reduce(raised, dist.ReduceOp.MAX, async_op=True)

    def answer() -> list[bool]:
        if work is not None:
            work.wait()
        return [bool(flag) for flag in raised]

    return answer


def all_ranks(flag: Bool[Tensor, ""]) -> Bool[Tensor, ""]:
    """Whether all ranks say yes, told to each of them on the flag's device: no host waits for one."""
    if num_ranks() == 1:
        return flag
    agreeing = flag.to(torch.int32)
    dist.all_reduce(agreeing, dist.ReduceOp.MIN)
    return agreeing.bool()


def barrier() -> None:
    """Waits for all ranks (over gloo: no device memory, no silent hang of a stream)."""
    any_rank([False])


@contextmanager
def agreed() -> Iterator[None]:
    """What is wrong with the input on one rank, or out of reach, is so for all: each raises the same; none hangs."""
    own: tuple[type[UserError | Outage], str] | None = None
    try:
        yield
    except (UserError, Outage) as error:
        own = (Outage if isinstance(error, Outage) else UserError), str(error)
    for rank, found in enumerate(gather_objects(own)):
        if found is not None:
            kind, message = found
            raise kind(message if rank == 0 else f"{message} (rank {rank})")
