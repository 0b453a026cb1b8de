"""Batch norm, forward and backward: of one process, ours over ranks, and torch's over ranks. The one rank has no other.

Ours takes the path of several ranks all the same, so its exchanges are there, and move nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from gpu.instruments import DEVICE, DRY, Note, milliseconds, peak_mebibytes
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from eyespot.pretrain.distributed.process_group import ensure_group
from eyespot.pretrain.networks.sync_batchnorm import synchronize_batch_norm

CHANNELS, PIXELS = 64, 56


def run(note: Note) -> None:
    ensure_group(DEVICE)
    if not hasattr(dist, "all_gather_single"):  # torch 2.11
        dist.all_gather_single = dist.all_gather_into_tensor
    shape = (8 if DRY else 128, CHANNELS, PIXELS, PIXELS)
    for layout in (torch.contiguous_format, torch.channels_last):
        drawn = torch.Generator(DEVICE).manual_seed(0)
        x, slope = (
            torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, generator=drawn).contiguous(memory_format=layout)
            for _ in range(2)  # a slope of its own: that along x, which a norm's gradient lacks, would leave none
        )
        x.requires_grad_()
        wanted: Tensor | None = None
        for name, layer in layers().items():

            def both(layer: nn.Module = layer, x: Tensor = x, slope: Tensor = slope) -> Tensor:
                x.grad = None
                with as_if_two_ranks():
                    layer(x).backward(slope)
                assert x.grad is not None
                return x.grad

            gradient = both().float()
            wanted = gradient if wanted is None else wanted
            off = f"gradient {float((gradient - wanted).norm() / wanted.norm()):.1e} off"
            where = "channels last" if layout is torch.channels_last else "channels first"
            note(f"{name}, {where}", f"{milliseconds(both):.3f} ms, {peak_mebibytes(both)}, {off}")
    dist.destroy_process_group()


def layers() -> dict[str, nn.Module]:
    """The kinds, in training mode; torch's over ranks knows GPUs only."""
    holder = nn.Sequential(nn.BatchNorm2d(CHANNELS))
    synchronize_batch_norm(holder)
    kinds: dict[str, nn.Module] = {"of one process": nn.BatchNorm2d(CHANNELS), "ours over ranks": holder}
    if not DRY:
        kinds["torch's over ranks"] = TorchOverRanks(CHANNELS)
    return {name: layer.to(DEVICE).train() for name, layer in kinds.items()}


class TorchOverRanks(nn.SyncBatchNorm):
    """By the function that its own forward pass calls where there are other ranks."""

    def forward(self, input: Tensor) -> Tensor:
        running = (self.running_mean, self.running_var)
        return cast(
            Tensor,
            SyncBatchNorm.apply(input, self.weight, self.bias, *running, self.eps, 0.1, dist.group.WORLD, 1),
        )


@contextmanager
def as_if_two_ranks() -> Iterator[None]:
    """Layers that ask for the number of ranks hear of two; the group still has one."""
    asked, dist.get_world_size = dist.get_world_size, lambda *_: 2
    try:
        yield
    finally:
        dist.get_world_size = asked
