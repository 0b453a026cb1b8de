"""Teachers: copies of a module that follow it slowly and take no gradient.

They live inside the objective, so engines shard them, checkpoints hold them, and every rank has the same one.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from eyespot.pretrain.distributed.process_group import own_share

M = TypeVar("M", bound=nn.Module)


def make_teacher(student: M) -> M:
    """A copy of ``student`` whose parameters need no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter, in fp32.

    On this rank's share of each parameter, where an engine has cut them up: nothing is exchanged.

    Running statistics of batch norm are the teacher's own: it sees every batch itself.
    """
    ours, theirs = ([own_share(parameter) for parameter in module.parameters()] for module in (teacher, student))
    torch._foreach_lerp_(ours, theirs, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]


def cosine_momentum(initial: float, progress: float) -> float:
    """From ``initial`` at the start to 1 at the end: 1 - (1 - initial) * (cos(pi * progress) + 1) / 2.

    BYOL (Grill et al. 2020, arXiv:2006.07733), section 3.3.

    Args:
        initial: momentum at the first step, 0..1.
        progress: share of the run that is done, 0..1.
    """
    return 1 - (1 - initial) * (math.cos(math.pi * progress) + 1) / 2
