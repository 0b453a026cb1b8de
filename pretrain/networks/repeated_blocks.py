"""The repeated blocks of an encoder or a decoder: the pieces that engines shard and compile one by one.

And what suits a device better than what timm chooses: how blocks attend, and in which order convolutions keep weights.
"""

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


def compiled_pieces(module: nn.Module) -> list[nn.Module]:
    """What of ``module`` is compiled one by one: its repeated blocks, and what stands whole beside them.

    That is a head, a stem, a stage of one block: the largest modules that hold no block, have parameters and more than
    one layer, and are called as they are. An encoder of timm's is not: heads want its features, MAE some patches.
    """
    blocks = set(repeated_blocks(module))
    found: list[nn.Module] = []
    for child in module.children():
        whole = not isinstance(child, nn.ModuleList | nn.ModuleDict) and not hasattr(child, "forward_features")
        layers = next(child.children(), None) is not None and next(child.parameters(), None) is not None
        if child in blocks or (whole and layers and not blocks & set(child.modules())):
            found.append(child)
        else:
            found += compiled_pieces(child)
    return list(dict.fromkeys(found))


def choose_attention(module: nn.Module, device: torch.device) -> None:
    """Fused attention on a GPU, plain matrix products on a CPU, in every timm block of ``module``.

    On a CPU torch's fused kernel takes longer: benchmarks/mae_step.py shows by how much.
    """
    for block in module.modules():
        if isinstance(getattr(block, "fused_attn", None), bool):
            cast(Any, block).fused_attn = device.type != "cpu"


def choose_layout(module: nn.Module, device: torch.device) -> None:
    """Channels last on a GPU, in place, where ``module`` has convolutions that look beyond one patch.

    A GPU's convolutions in bf16 and TF32 work on channels that lie side by side; weights in the usual order cost a
    transposition for each. Views come so, and what a convolution makes of them stays so. The weights' numbers, names
    and shapes are the same, and so are the bytes of a checkpoint. A vision transformer, whose one convolution cuts
    patches, is left alone, and so is everything on a CPU.
    """
    if device.type == "cuda" and any(_overlaps(part) for part in module.modules()):
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _overlaps(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv2d) and any(k > s for k, s in zip(part.kernel_size, part.stride, strict=True))
