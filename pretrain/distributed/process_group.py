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
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from eyespot.data_pipeline.loading.cpu_share import own_cores
from eyespot.pretrain.distributed.arithmetic import set_arithmetic
from eyespot.pretrain.distributed.devices import name_of, own_device, pci_address, require_apart
from eyespot.pretrain.distributed.numa import bind_near
from eyespot.pretrain.distributed.rendezvous import fresh_store

_OWN: list[dist.ProcessGroup | None] = []
"""The process group that was joined here."""


@dataclass(kw_only=True, slots=True, frozen=True)
class World:
    """This process among the run's processes."""

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0
    """Among the processes of its node."""
    cores: str = ""
    """Whether it was bound to CPU cores near its GPU, and to which, in words; empty = that chooses nothing here."""


def start(device: str, timeout_seconds: float = 600, *, deterministic: bool = False) -> World:
    """Joins the process group, if there is one, and takes this process's device.

    Args:
        device: "auto" (a GPU where there is one), "cpu" or "cuda", see ``own_device``.
        timeout_seconds: a rank that is silent for longer makes the others stop.
        deterministic: see ``set_arithmetic``; NCCL wants to know before it begins, lest switches add up in any order.

    Raises:
        UserError: the device cannot be used, or two ranks have the same GPU.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen, cores = own_device(device, local_rank), ""
    if chosen.type == "cuda":
        own_cores()  # before there are fewer
        cores = bind_near(pci_address(chosen), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    set_arithmetic(chosen, deterministic=deterministic)
    if size > 1 and not dist.is_initialized():
        store, timeout = fresh_store(rank, size, timeout_seconds), timedelta(seconds=timeout_seconds)
        if chosen.type == "cuda":
            store = store or next(rendezvous("env://", rank, size, timeout=timeout))[0]
            require_apart(name_of(chosen), store, rank, size)
        # NCCL told of its device begins now, and says now what is wrong with it.
        known = {"store": store, "rank": rank, "world_size": size, "timeout": timeout}
        dist.init_process_group(_backend(chosen), device_id=chosen if chosen.type == "cuda" else None, **known)
        _OWN.append(dist.group.WORLD)
    return World(rank=rank, size=size, device=chosen, local_rank=local_rank, cores=cores)


def ensure_group(device: torch.device) -> None:
    """A process group of one, where a single process has none: some engines cannot do without."""
    if not dist.is_initialized():
        dist.init_process_group(_backend(device), store=dist.HashStore(), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]
        _OWN.append(dist.group.WORLD)


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
    """Leaves the process group, if it was joined here: that of a program around us stays."""
    if dist.is_initialized() and dist.group.WORLD in _OWN:
        dist.destroy_process_group()
    _OWN.clear()
