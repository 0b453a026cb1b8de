"""One step's forward and backward passes over its micro-batches: the same for every engine."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.contrastive_objective import Contrastive
from eyespot.pretrain.engines.gradient_cache import cached_gradients
from eyespot.pretrain.objective import Objective


@runtime_checkable
class Passes(Protocol):
    """What differs between engines."""

    objective: Objective

    def forward(self, batch: Batch, **known: Any) -> dict[str, Any]:
        """The objective's forward pass, wrapped and in the run's precision."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of ``loss``."""
        ...

    def exchange(self, last: bool) -> AbstractContextManager:
        """Around both passes of a micro-batch: whether it is the step's last, with which gradients are exchanged."""
        ...


def forward_backward(
    passes: Passes,
    micro_batches: Iterable[tuple[Batch, int]],
    count: int,
    autocast: Callable[[], AbstractContextManager],
) -> list[dict[str, Tensor]]:
    """The gradient of the mean of ``count`` micro-batches' losses, or, if contrastive, of the loss of all of them.

    Returns:
        Detached scalars of each micro-batch.
    """
    objective = passes.objective
    if isinstance(objective, Contrastive) and count > 1:
        cached, scalars = cached_gradients(objective, passes.forward, micro_batches, autocast)
        for number, (batch, seed, gradients) in enumerate(cached, 1):
            _one(passes, batch, seed, number == count, 1, gradients=gradients)
        return [scalars] * len(cached)
    return [_one(passes, batch, seed, number == count, count) for number, (batch, seed) in enumerate(micro_batches, 1)]


def _one(passes: Passes, batch: Batch, seed: int, last: bool, divisor: int, **known: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    with passes.exchange(last):
        scalars = passes.forward(batch, **known)
        passes.backward(scalars["loss"] / divisor)
    return {name: scalar.detach() for name, scalar in scalars.items()}
