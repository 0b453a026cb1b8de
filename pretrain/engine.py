"""Engine: how an objective's step runs on many processes. One file each in ``engines/``, chosen by name."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eyespot.data_pipeline.batch import Batch
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.batchnorm import synchronize_batch_norm
from eyespot.pretrain.dist import World
from eyespot.pretrain.encoders import choose_attention
from eyespot.pretrain.objective import Objective

Precision = Literal["fp32", "bf16"]


@runtime_checkable
class Engine(Protocol):
    """What the trainer asks of an engine.

    Gradients are means over the global batch: over micro-batches and over ranks. Rates are pure functions of the step,
    handed in each time; the engine saves none.
    """

    objective: Objective

    def forward_backward(self, micro_batches: Iterable[tuple[Batch, int]]) -> list[dict[str, Tensor]]:
        """Computes the gradient of a whole step: detached scalars of each micro-batch.

        Args:
            micro_batches: as many as the engine was told to expect, each with its seed of torch's generator; taken one
                by one, so that the next can be made ready meanwhile.
        """
        ...

    def step(self, lr: float) -> tuple[float, bool]:
        """Clips and applies the gradient at this learning rate: (global gradient norm, applied?).

        A norm that is not finite is applied nowhere: it is the same number on every rank, so all of them skip alike.
        """
        ...

    def discard(self) -> None:
        """Forgets the gradient collected so far."""
        ...

    def save_tensors(self) -> dict[str, Tensor]:
        """The live state: ``model.<name>`` and ``optim.state.<name>.<slot>``. A checkpoint is read into these."""
        ...

    def close(self) -> None:
        """Frees what the engine holds."""
        ...


MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


def engine_names() -> list[str]:
    """The engines there are: the files of ``engines/``."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "engines")]))


def make_engine(
    name: str,
    objective: Objective,
    world: World,
    make_optimizer: MakeOptimizer,
    *,
    accumulate: int,
    clip: float | None,
    precision: Precision,
) -> Engine:
    """The engine of that name around ``objective``, which it moves to its device.

    Args:
        name: a file of ``engines/``.
        objective: the whole method as one module.
        world: this process and its device.
        make_optimizer: builds the optimiser; the engine decides when, because wrapping may replace parameters.
        accumulate: micro-batches per step.
        clip: largest global gradient norm, or None.
        precision: "bf16" runs the forward pass under autocast; parameters stay fp32.

    Raises:
        UserError: there is no such engine.
    """
    if name not in engine_names():
        raise UserError(f"engine {name!r}: not one of {', '.join(engine_names())}")
    choose_attention(objective, world.device)
    if world.size > 1:
        synchronize_batch_norm(objective)
    module = importlib.import_module(f"eyespot.pretrain.engines.{name}")
    return module.make(objective, world, make_optimizer, accumulate=accumulate, clip=clip, precision=precision)
