"""The processes of a run: who am I, which device is mine, and what do I hold of a tensor that is cut up.

Without a launcher a run is one process and no process group exists; under torchrun (or any launcher that sets
RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) it is one process per device.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.rendezvous import fresh_store


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
