"""Engine: how an objective's step runs on many processes. One file each in ``engines/``, chosen by name."""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.loader import or_gpu
from eyespot.pretrain.distributed.arithmetic import Precision, set_arithmetic
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.repeated_blocks import choose_attention, compiled_pieces
from eyespot.pretrain.networks.sync_batchnorm import SYNCHRONIZED, synchronize_batch_norm
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.skipped_step import Taken


@dataclass(kw_only=True, slots=True)
class FSDPConfig:
    """Of the engine fsdp only."""

    shard_over: Literal["all", "node"] = "all"
    """all = every rank holds its share of parameters, gradients and optimiser state; node = each node holds them whole,
    cut over its own ranks: more memory, and only gradients cross between nodes."""
    gather: Literal["fp32", "bf16"] = "fp32"
    """In which precision a block's parameters travel before it runs; bf16 halves that traffic, and the block then
    computes wholly in bf16, so that results differ from other engines' by its rounding."""


@dataclass(kw_only=True, slots=True)
class DeepSpeedConfig:
    """Of the engine deepspeed only."""

    stage: Literal[1, 2, 3] = 2
    """ZeRO: 1 = optimiser state is cut over the ranks, 2 = gradients too, 3 = parameters too."""
    options: Path | None = None
    """JSON file with further DeepSpeed settings, laid over those made from the run."""


@dataclass(kw_only=True, slots=True)
class Settings:
    """What an engine is told of the run, besides the objective and its optimiser."""

    accumulate: int = 1
    """Micro-batches per step."""
    micro_batch_size: int = 1
    """Images per micro-batch on this rank."""
    clip: float | None = None
    """Largest global gradient norm, or None."""
    precision: Precision = "fp32"
    """bf16 runs the forward pass under autocast; parameters stay fp32. See ``set_arithmetic``."""
    deterministic: bool = False
    """The same bits again, on a GPU, too; see ``set_arithmetic``."""
    compile: bool = False
    """Compile blocks, heads and contrastive losses."""
    cuda_graph: bool = False
    """Both passes of a step as one CUDA graph; see ``engines/cuda_graph.py``."""
    fsdp: FSDPConfig = field(default_factory=FSDPConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision of the forward pass, as a context."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(kw_only=True, slots=True, frozen=True)
class MicroBatch:
    """The part of a step's batch that goes through the objective at once."""

    batch: Batch
    seed: int = 0
    """Of torch's generator (drop path and the like)."""
    last: bool = True
    """The step's last: ranks exchange their gradients in its backward pass."""
    num_averaged: int = 1
    """The step's loss is the mean of so many micro-batches' losses. 1 where each has its whole share already."""
    known: dict[str, Any] = field(default_factory=dict)
    """What else the objective's forward pass is told."""


MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
ReadTensors = Callable[[dict[str, Tensor]], None]


@runtime_checkable
class Engine(Protocol):
    """What the trainer asks of an engine.

    Gradients are means over the global batch: over micro-batches and over ranks. Rates are pure functions of the step,
    handed in each time; the engine saves none.

    Where parameters are sharded, ``objective.encode`` and ``objective.picture`` gather them: all ranks call them alike.
    """

    objective: Objective

    def forward(self, part: MicroBatch) -> dict[str, Any]:
        """The objective's forward pass, wrapped and in the run's precision: {"loss": scalar, and scalars to log}."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of what the last forward pass made."""
        ...

    def autocast(self) -> AbstractContextManager:
        """The precision of the forward pass, for what is computed beside it."""
        ...

    def step(self, lr: float, finite: Taken = True, done: float = 1.0) -> tuple[float | Tensor, Taken]:
        """Clips, applies and drops the gradient at this learning rate: (global gradient norm, applied?).

        A norm that is not finite is applied nowhere: it is the same number on every rank, so all of them skip alike.

        Args:
            lr: learning rate.
            finite: whether all else of the step was, the same on every rank; a step that was not is skipped too.
            done: share of the run that lies behind: what learns from then on only has waited.

        Returns:
            Numbers of Python's; or, where the device decides and no host waits for it, tensors there, () each.
        """
        ...

    def discard(self) -> None:
        """Forgets the gradient collected so far."""
        ...

    def averaged(self) -> AbstractContextManager[None]:
        """The objective's weights are those that evaluation reads, and a checkpoint holds, for a while."""
        ...

    def save_tensors(self) -> dict[str, Tensor]:
        """The state to write: ``model.<name>`` and ``optim.state.<name>.<slot>``.

        Whole tensors, DTensors, or only those whole tensors that this rank is to write. Every rank calls it.
        """
        ...

    def load_tensors(self, read: ReadTensors) -> None:
        """Takes over a saved state, whatever engine and number of ranks wrote it. Every rank calls it.

        Args:
            read: fills tensors, by the names of ``save_tensors``, in place; may be called once for each part of them.
        """
        ...

    def close(self) -> None:
        """Frees what the engine holds."""
        ...


VARIANTS = 8
"""Of a compiled piece: training and not, with and without gradient, sizes of multi-crop views."""

ENGINES = ("ddp", "deepspeed", "fsdp")


def engine_names() -> list[str]:
    """The engines there are: files of ``engines/``."""
    return list(ENGINES)


def make_engine(
    name: str, objective: Objective, world: World, make_optimizer: MakeOptimizer, settings: Settings
) -> Engine:
    """The engine of that name around ``objective``, which it moves to its device.

    Args:
        name: a file of ``engines/``.
        objective: the whole method as one module.
        world: this process and its device.
        make_optimizer: builds the optimiser; the engine decides when, because wrapping may replace parameters.
        settings: what else it needs of the run.

    Raises:
        UserError: there is no such engine, or it cannot do what the settings ask for.
    """
    _check_settings(name, world, settings)
    set_arithmetic(world.device, settings.precision, deterministic=settings.deterministic, training=True)
    choose_attention(objective, world.device)
    if world.size > 1:
        synchronize_batch_norm(objective)
    module = importlib.import_module(f"eyespot.pretrain.engines.{name}")
    if settings.compile:
        compile_objective(objective)
    return module.make(objective, world, make_optimizer, settings)


def check_engine(name: str, objective: Objective, world: World, settings: Settings, optimizer: str) -> None:
    """Whether ``make_engine`` could make it, as far as settings, ranks and modules tell.

    Args:
        name: of the engine.
        objective: which may lie on the meta device; it is changed.
        world: this process and its device.
        settings: of the run.
        optimizer: its name.

    Raises:
        UserError: it could not.
    """
    _check_settings(name, world, settings)
    if settings.cuda_graph and objective.in_stages:
        what = type(objective).__name__
        raise UserError(f"cuda_graph True: what {what} computes changes in the course of this run; leave it out")
    if settings.compile:
        _compiled_pieces(objective)
    if world.size > 1:
        synchronize_batch_norm(objective)
    module = importlib.import_module(f"eyespot.pretrain.engines.{name}")
    if hasattr(module, "check"):
        module.check(objective, world, settings, optimizer)


def _check_settings(name: str, world: World, settings: Settings) -> None:
    """Raises UserError where there is no such engine, or its step cannot be a graph."""
    if name not in engine_names():
        raise UserError(f"engine {name!r}: not one of {', '.join(engine_names())}")
    if settings.cuda_graph:
        _check_cuda_graph(name, world, settings)


def _check_cuda_graph(name: str, world: World, settings: Settings) -> None:
    """Raises UserError where a step cannot be a graph."""
    if world.device.type != "cuda":
        raise UserError(f"cuda_graph True: there are none on a CPU; leave it out{or_gpu()}")
    if name != "ddp":
        raise UserError(f"cuda_graph True: not with engine {name}; take --engine ddp, or leave it out")
    if world.size > 1:
        raise UserError(f"cuda_graph True: works in one process, and these are {world.size}; leave it out")
    if settings.accumulate > 1:
        raise UserError(f"cuda_graph True: not with data.accumulate {settings.accumulate}; leave one of them out")
    if settings.compile:
        raise UserError("cuda_graph True: not with compile True; leave one of them out")


def _compiled_pieces(objective: Objective) -> list[nn.Module]:
    """What ``compile`` compiles; raises a UserError where that is nothing."""
    pieces = compiled_pieces(objective)
    if not pieces:
        raise UserError("compile True: this objective has no block and no head to compile; leave it out")
    return pieces


def compile_objective(objective: Objective, backend: str = "inductor") -> None:
    """In place: names and hooks stay, and blocks of one shape share their code.

    Blocks, heads, stems, and the loss of a contrastive objective. Batch norms over ranks stay outside: their exchanges
    are no part of a graph.

    Raises:
        UserError: there is nothing to compile.
    """
    pieces = _compiled_pieces(objective)
    import torch._dynamo.config as limits  # takes seconds

    # torch counts all pieces as variants of one function, and runs those beyond its limit as they are.
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS * len(pieces))
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, VARIANTS * len(pieces))
    for part in objective.modules():
        if type(part) in SYNCHRONIZED.values():
            part.forward = torch.compiler.disable(part.forward)
    for piece in pieces:
        piece.compile(backend=backend)
    for name in objective.compiled:
        setattr(objective, name, torch.compile(getattr(objective, name), backend=backend))
