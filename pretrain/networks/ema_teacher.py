"""Teachers: copies of a module that follow it slowly and take no gradient.

They live inside the objective, so engines shard them, checkpoints hold them, and every rank has the same one.
"""

# torch documents its foreach operations, underscore and all.
# pyright: reportPrivateImportUsage=false

import copy
import math
from collections.abc import Iterator
from typing import TypeVar

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from eyespot.pretrain.networks.adapters.lora import weights_of
from eyespot.pretrain.skipped_step import Taken, if_taken

M = TypeVar("M", bound=nn.Module)

PART_ELEMENTS = 2**24
"""How much of a teacher moves at once where the device knows whether: it takes 64 MB beside the teacher."""


def make_teacher(student: M) -> M:
    """A copy of ``student`` whose parameters need no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


def make_steady_teacher(student: M) -> M:
    """A copy that drops no paths while it trains, and whose parameters need no gradient."""
    teacher = make_teacher(student)
    for part in teacher.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0
    return teacher


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float, taken: Taken = True) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter, in fp32.

    On this rank's share of each parameter, where an engine has cut them up. Nothing is exchanged but, of a student
    that learns by low-rank steps, the smaller half of these: the teacher follows the weights that it computes with.

    Running statistics of batch norm are the teacher's own: it sees every batch itself.

    Args:
        teacher: follows.
        student: finite, whatever the step was like: a step that is skipped leaves its weights alone.
        momentum: 0..1.
        taken: whether the step was; else the teacher stays.
    """
    ours, theirs = weights_of(teacher), weights_of(student)
    if isinstance(taken, bool):
        if taken:
            torch._foreach_lerp_(ours, theirs, 1 - momentum)
        return
    weight = taken.to(ours[0].dtype) * (1 - momentum)
    for some_of_ours, some_of_theirs in zip(_parts(ours), _parts(theirs), strict=True):
        ways = torch._foreach_sub(some_of_theirs, some_of_ours)
        torch._foreach_mul_(ways, weight)
        torch._foreach_add_(some_of_ours, ways)


@torch.no_grad()
def average(averaged: nn.Module, learner: nn.Module, decay: float, taken: Taken = True) -> None:
    """Polyak's average, parameters and running statistics alike: a <- decay * a + (1 - decay) * w.

    Nothing runs ``averaged``, so it has no statistics of its own, as a teacher has; counters are taken over.

    Args:
        averaged: a copy of ``learner``.
        learner: what is trained.
        decay: 0..1.
        taken: whether the step was; else the average stays.
    """
    follow(averaged, learner, decay, taken)
    for ours, theirs in zip(averaged.buffers(), learner.buffers(), strict=True):
        new = ours.lerp(theirs, 1 - decay) if ours.is_floating_point() else theirs
        ours.copy_(if_taken(taken, new, ours))


def rising_decay(most: float, step: int) -> float:
    """What an average keeps of itself at a step: min(most, (1 + step) / (10 + step)).

    So it forgets the random weights that it began with, however short the run. The rule of TensorFlow's
    ExponentialMovingAverage with ``num_updates``.

    Args:
        most: 0..1.
        step: counted from 1.
    """
    return min(most, (1 + step) / (10 + step))


def _parts(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Cuts the list so that a part holds little beyond PART_ELEMENTS, or one tensor."""
    part: list[Tensor] = []
    count = 0
    for tensor in tensors:
        part.append(tensor)
        count += tensor.numel()
        if count >= PART_ELEMENTS:
            yield part
            part, count = [], 0
    if part:
        yield part


def cosine_momentum(initial: float, progress: float) -> float:
    """From ``initial`` at the start to 1 at the end: 1 - (1 - initial) * (cos(pi * progress) + 1) / 2.

    BYOL (Grill et al. 2020, arXiv:2006.07733), section 3.3.

    Args:
        initial: momentum at the first step, 0..1.
        progress: share of the run that is done, 0..1.
    """
    return 1 - (1 - initial) * (math.cos(math.pi * progress) + 1) / 2
