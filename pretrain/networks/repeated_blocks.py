"""The repeated blocks of an encoder or a decoder: the pieces that engines shard and compile one by one."""

from typing import Any, cast

import torch
from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """All transformer or residual blocks in ``module``, in the order of its modules.

    A block is a child of a list or sequence of two or more modules of one class that have modules of their own; so it
    is found by what it is and not by the name that a timm architecture gives it. What holds such blocks is a stage and
    no block itself.
    """
    children = list(module.children())
    repeats = isinstance(module, _CONTAINERS) and len(children) > 1 and len({type(child) for child in children}) == 1
    found: list[nn.Module] = []
    for child in children:
        below = repeated_blocks(child)
        if not below and repeats and not isinstance(child, _CONTAINERS) and next(child.children(), None) is not None:
            below = [child]
        found.extend(below)
    return list(dict.fromkeys(found))


def choose_attention(module: nn.Module, device: torch.device) -> None:
    """Fused attention on a GPU, plain matrix products on a CPU, in every timm block of ``module``.

    On a CPU torch's fused kernel takes longer: benchmarks/mae_step.py shows by how much.
    """
    for block in module.modules():
        if isinstance(getattr(block, "fused_attn", None), bool):
            cast(Any, block).fused_attn = device.type != "cpu"
