"""The repeated blocks of an encoder or a decoder: the pieces that engines shard and compile one by one."""

from torch import nn


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """All transformer or residual blocks in ``module``, outermost first, in the order of its modules.

    A block is a child of a list or sequence of two or more modules of one class that have modules of their own; so it
    is found by what it is and not by the name that a timm architecture gives it. A block within a block does not count.
    """
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for container in module.modules():
        if container in inside or not isinstance(container, nn.Sequential | nn.ModuleList):
            continue
        children = list(container)
        if len(children) > 1 and len({type(child) for child in children}) == 1 and list(children[0].children()):
            if any(isinstance(child, nn.Sequential | nn.ModuleList) for child in children):
                continue  # stages: their blocks are found below them
            found.extend(children)
            inside.update(below for child in children for below in child.modules())
    return found
