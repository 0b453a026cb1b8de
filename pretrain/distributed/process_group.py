"""The processes of a run: who am I, which device is mine, and the few exchanges that the loop needs.

Without a launcher a run is one process and no process group exists; under torchrun (or any launcher that sets
RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) it is one process per device.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.distributed.tensor import DTensor

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.rendezvous import fresh_store


def exchange(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every rank's value, by rank; pickled between the processes of one run, never to a file."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group=group)
    return gathered


T = TypeVar("T")


@dataclass(kw_only=True, slots=True, frozen=True)
class World:
    """This process among the run's processes."""

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0
    """Among the processes of its node."""


def start(device: str, timeout_seconds: float = 600) -> World:
    """Joins the process group, if there is one, and takes this process's device.

    Args:
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        timeout_seconds: a rank that is silent for longer makes the others stop.

    Raises:
        UserError: "cuda" is asked for and there is none.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no GPU here; use --device cpu or check the driver with nvidia-smi")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"device cuda: {local_rank + 1} processes on a machine with {torch.cuda.device_count()} GPUs"
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    else:
        chosen = torch.device("cpu")
    if size > 1 and not dist.is_initialized():
        store, timeout = fresh_store(rank, size, timeout_seconds), timedelta(seconds=timeout_seconds)
        dist.init_process_group(_backend(chosen), store=store, rank=rank, world_size=size, timeout=timeout)
    return World(rank=rank, size=size, device=chosen, local_rank=local_rank)


def ensure_group(device: torch.device) -> None:
    """A process group of one, where a single process has none: some engines cannot do without."""
    if not dist.is_initialized():
        dist.init_process_group(_backend(device), store=dist.HashStore(), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def own_share(tensor: Tensor) -> Tensor:
    """What this rank holds of a parameter that an engine may have cut up, without gradient; writing to it counts.

    FSDP makes parameters DTensors; ZeRO-3 keeps each rank's piece in an attribute.
    """
    if isinstance(tensor, DTensor):
        return tensor.to_local().detach()
    return getattr(tensor, "ds_tensor", tensor).detach()


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def any_rank(flags: list[bool]) -> list[bool]:
    """For each flag: does any rank raise it? One small reduction, so that all ranks act at the same step."""
    if not dist.is_initialized():
        return flags
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised]


def gather_rows(rows: Float64[Tensor, "n k"] | Int64[Tensor, "n k"]) -> Float64[Tensor, "m k"] | Int64[Tensor, "m k"]:
    """Stacks (micro-batches, k) of all ranks to (micro-batches * ranks, k) in the order of the global batch.

    Micro-batch i of rank r stands at row i * ranks + r: the order in which one process would have met them.
    Every rank gets the result.
    """
    if not dist.is_initialized():
        return rows
    rows = rows.cpu().contiguous()
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows)
    return torch.stack(gathered, dim=1).flatten(0, 1)


def gather_batch(micro_batches: list[Tensor]) -> Tensor:
    """Rows (B, ...) of this rank's micro-batches -> the rows of all ranks, in the order of the global batch.

    Every rank gets all of them, on the rows' device, without gradient.
    """
    own = torch.stack(micro_batches).contiguous()
    if not dist.is_initialized():
        return own.flatten(0, 1)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return torch.stack(gathered, dim=1).flatten(0, 2)


def gather_to_first(own: T) -> list[T] | None:
    """Every rank's value, on rank 0; None on the others. For what is small: it is pickled on the way."""
    if not dist.is_initialized():
        return [own]
    gathered = [own] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(own, gathered)
    return gathered


def take_from_first(tensor: Tensor) -> None:
    """Overwrites it with rank 0's, which has the same shape and type."""
    if dist.is_initialized():
        dist.broadcast(tensor, 0)


@contextmanager
def agreed() -> Iterator[None]:
    """What is wrong with the input on one rank is wrong for all: each raises the same UserError, and none hangs."""
    own: str | None = None
    try:
        yield
    except UserError as error:
        own = str(error)
    messages: list[str | None] = [own]
    if dist.is_initialized():
        messages = [None] * dist.get_world_size()
        dist.all_gather_object(messages, own)
    for rank, message in enumerate(messages):
        if message is not None:
            raise UserError(message if rank == 0 else f"{message} (rank {rank})")


def barrier() -> None:
    """Waits for all ranks (over gloo: no device memory, no silent hang of a stream)."""
    any_rank([False])
