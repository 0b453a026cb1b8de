"""DeepSpeed's ZeRO: optimiser state (stage 1), gradients (2) and parameters (3) are cut over the ranks.

Rajbhandari et al. 2019 (arXiv:1910.02054). Only this file imports DeepSpeed. It runs on a CPU too, compiles nothing,
and says nothing unless something is wrong.

On two ranks on a CPU the results equal DDP's to the bit, unless gradients are clipped or micro-batches accumulated in
stages 2 and 3: docs/engines.md says how far apart they are then. On a GPU nobody has measured it. What it cannot: lars,
muon and schedulefree (ZeRO flattens tensors and cuts them anywhere), and blocks compiled one by one in stage 3.
"""

import contextlib
import importlib
import logging
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.arithmetic import refusals_in_words
from eyespot.pretrain.distributed.process_group import World, ensure_group
from eyespot.pretrain.engine import MakeOptimizer, MicroBatch, ReadTensors, Settings
from eyespot.pretrain.engines.zero_state import ZeroState
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.lars import LARS
from eyespot.pretrain.optim.muon import Muon
from eyespot.pretrain.optim.optimizers import set_rate
from eyespot.pretrain.optim.schedule_free import ScheduleFreeAdamW
from eyespot.pretrain.skipped_step import Taken

MAX_BUCKET_ELEMENTS = 50_000_000
"""Gradients that are reduced at once: 200 MB. DeepSpeed's own default sets 2 GB aside."""

_PRECISION = "use --precision"
_CUTS = "the engine relies on how ZeRO cuts tensors; leave it out"
REFUSED = {
    "train_batch_size": "use --data.batch-size",
    "train_micro_batch_size_per_gpu": "use --data.batch-size and --data.accumulate",
    "gradient_accumulation_steps": "use --data.accumulate",
    "managed_gradient_accumulation": "use --data.accumulate",
    "gradient_clipping": "use --optim.clip",
    "optimizer": "use --optim.name",
    "scheduler": "use --optim.lr and --optim.warmup-steps",
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "compile": "use --compile",
    "zero_optimization.stage": "use --deepspeed.stage",
    "zero_optimization.offload_optimizer": _CUTS,
    "zero_optimization.offload_param": _CUTS,
    "zero_optimization.cpu_offload": _CUTS,
    "zero_optimization.zenflow": _CUTS,
    "zero_optimization.zero_hpz_partition_size": _CUTS,
    "zero_optimization.mics_shard_size": _CUTS,
    "zero_optimization.stage3_param_persistence_threshold": _CUTS,
    "zero_optimization.param_persistence_threshold": _CUTS,
    "zero_optimization.zero_quantized_weights": _CUTS,
    "zero_optimization.zero_quantized_nontrainable_weights": _CUTS,
    "zero_optimization.memory_efficient_linear": "it would change the results; leave it out",
}
"""Settings of DeepSpeed's that are the run's own business, and what to do instead."""


_NOT_CUT = {"lars": "the norms of whole tensors", "muon": "whole matrices", "schedulefree": "two sets of weights"}
"""What optimisers need that ZeRO's flat vectors do not give."""


def check(objective: Objective, world: World, settings: Settings, optimizer: str) -> None:
    """Raises a UserError where it could not be made; see ``check_engine``."""
    _check_settings(settings)
    make_config(settings, 0, world.device)
    if optimizer in _NOT_CUT:
        raise _refused(optimizer)


def _refused(optimizer: str) -> UserError:
    return UserError(f"optim.name {optimizer}: needs {_NOT_CUT[optimizer]}, ZeRO cuts tensors up; use --engine fsdp")


def _check_settings(settings: Settings) -> None:
    if settings.compile and settings.deepspeed.stage == 3:
        raise UserError("compile True: ZeRO-3 cannot run compiled blocks; use --deepspeed.stage 2 or --engine fsdp")


class DeepSpeedEngine:
    """The engine (see engine.py) around DeepSpeed's own."""

    def __init__(self, objective: Objective, world: World, make_optimizer: MakeOptimizer, settings: Settings) -> None:
        stage = settings.deepspeed.stage
        _check_settings(settings)
        num_trainable = sum(p.numel() for p in objective.parameters() if p.requires_grad)
        config = make_config(settings, num_trainable, world.device)
        self.objective, self._settings, self._device = objective.to(world.device), settings, world.device
        optimizer = make_optimizer(objective)
        for kind, name in ((LARS, "lars"), (Muon, "muon"), (ScheduleFreeAdamW, "schedulefree")):
            if isinstance(optimizer, kind):
                raise _refused(name)
        tensors: dict[str, Tensor] = dict(objective.state_dict(keep_vars=True))
        ensure_group(world.device)
        self._calls = _Calls(objective)
        self._engine: Any = _initialize(self._calls, optimizer, config, settings.deepspeed.options, world.device)
        self._zero = self._engine.optimizer
        self._state = ZeroState(objective, tensors, self._zero, stage, world)
        self._gathered = ("encode", "picture") if stage == 3 else ()
        for name in self._gathered:
            setattr(objective, name, self._with_parameters(getattr(objective, name)))

    def forward(self, part: MicroBatch) -> dict[str, Any]:
        """The objective's forward pass in the run's precision. ZeRO is told which micro-batch is the step's last."""
        torch.manual_seed(part.seed)
        self._engine.set_gradient_accumulation_boundary(part.last)
        with refusals_in_words(self._settings.accumulate):
            return self._engine(call=self.objective, precision=self.autocast(), batch=part.batch, **part.known)

    def backward(self, loss: Tensor) -> None:
        """Adds its gradient; which rank keeps what of it, ZeRO decides."""
        with refusals_in_words():
            self._engine.backward(loss, scale_wrt_gas=False)  # the loop has divided it

    def autocast(self) -> torch.autocast:
        """The run's precision."""
        return self._settings.autocast(self._device)

    def step(self, lr: float, finite: Taken = True, done: float = 1.0) -> tuple[float, bool]:
        """Clips by the global norm and steps; ZeRO skips when the norm is not finite, and calls it infinite.

        The host waits for the device: ZeRO itself asks it for the norm, to decide whether to step.
        """
        if not finite:
            self.discard()
            return math.nan, False
        set_rate(self._zero.optimizer, lr, done)
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if applied := self._engine.was_step_applied() and math.isfinite(norm):
            return norm, applied
        self.discard()
        return norm, False

    def discard(self) -> None:
        """Drops the gradients, and what ZeRO has counted of the step."""
        self._state.forget_gradients()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """No optimiser that it takes has others."""
        return contextlib.nullcontext()

    def save_tensors(self) -> dict[str, Tensor]:
        """Whole fp32 tensors, each on one rank."""
        return self._state.save()

    def load_tensors(self, read: ReadTensors) -> None:
        """Reads whole tensors and keeps this rank's share of each."""
        self._state.load(read)

    def close(self) -> None:
        """Takes DeepSpeed's hooks off; in stage 3 the objective's parameters stay cut."""
        for name in self._gathered:
            delattr(self.objective, name)  # the class's own shows again
        self._gathered = ()
        self._engine.destroy()

    def _with_parameters(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method as a forward pass of its own, in which ZeRO-3 brings each module's parameters when it runs."""

        def call(*args: Any, **known: Any) -> Any:
            if self._calls.running:
                return method(*args, **known)
            return self._engine(call=lambda **_: method(*args, **known), precision=contextlib.nullcontext())

        return call


class _Calls(nn.Module):
    """What DeepSpeed wraps. It switches off an autocast around itself, so ours is entered inside."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.running = False

    def forward(self, *, call: Callable[..., Any], precision: contextlib.AbstractContextManager, **known: Any) -> Any:
        """By keyword only: ZeRO-3 looks through positional arguments for tensors and knows no Batch."""
        self.running = True
        try:
            with precision:
                return call(**known)
        finally:
            self.running = False


def make_config(settings: Settings, num_trainable: int, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, with the user's file laid over it.

    Raises:
        UserError: the file cannot be read, or sets what the run decides.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "gradient_clipping": settings.clip or 0.0,  # its own default is 1.0
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": settings.deepspeed.stage,
            "reduce_bucket_size": min(MAX_BUCKET_ELEMENTS, num_trainable),
            # Gradients cross the network while the backward pass goes on; its own default is so in stage 3 only.
            "overlap_comm": device.type == "cuda" or settings.deepspeed.stage == 3,
            "memory_efficient_linear": False,  # it replaces F.linear for the whole process
            "stage3_param_persistence_threshold": 0,  # teachers follow on shards: all parameters must be cut
        },
    }
    if settings.deepspeed.options is None:
        return config
    options = _read_options(settings.deepspeed.options)
    zero = options.pop("zero_optimization", {})
    return config | options | {"zero_optimization": config["zero_optimization"] | zero}


def _read_options(path: Path) -> dict[str, Any]:
    try:
        options: dict[str, Any] = foreign_json.read(path, dict)
    except OSError as error:
        raise UserError(f"deepspeed.options {path}: cannot be read: {error}") from error
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"deepspeed.options {path}: is not a JSON object: {error.why}") from error
    if not isinstance(options.get("zero_optimization", {}), dict):
        raise UserError(f"deepspeed.options {path}: zero_optimization must be a JSON object")
    keys = [*options, *(f"zero_optimization.{key}" for key in options.get("zero_optimization", {}))]
    for key in keys:
        if key in REFUSED:
            raise UserError(f"deepspeed.options {path}: {key} cannot be set there; {REFUSED[key]}")
    return options


def _initialize(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    options: Path | None,
    device: torch.device,
) -> Any:
    """DeepSpeed's engine, made without noise."""
    os.environ.setdefault("LOCAL_RANK", "0")  # it insists, also on a single process
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # or it warns that it found no GPU
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns of what we chose, and of each step it skips
    backend: Any = importlib.import_module("deepspeed.comm.torch")  # the package's own "torch" is torch
    # On a CPU it would compile an operator for exchanges through shared memory, for a minute; gloo does without.
    backend.build_shm_op = lambda: None
    # It still uses names of torch's that are on their way out.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    try:
        deepspeed.DeepSpeedConfig(config)
    except (ValueError, AssertionError, KeyError, TypeError) as error:
        if options is None:
            raise
        raise UserError(f"deepspeed.options {options}: DeepSpeed refuses it: {_one_line(error)}") from error
    return deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)[0]


def _one_line(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


make = DeepSpeedEngine
"""The engine of this file."""
