"""A device that this machine lacks, stood in for by torch's meta tensors, which have no values: who asks for one fails.

A step on it shows what a step on a GPU asks of the host: reads, and copies that the host waits for. Custom operators
are run inside, too. How many operators a step takes is written down:

    python tests/stand_in_device.py

counts them anew and writes ``tests/operators_per_step.json``.
"""

import json
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from engine_states import make_batch, make_objective
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import eyespot.pretrain.objectives
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.engine import MicroBatch, Settings
from eyespot.pretrain.engines.torch_engine import TorchEngine
from eyespot.pretrain.loop.step_metrics import StepRecord
from eyespot.pretrain.networks.sync_batchnorm import RunningStatistics
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.operators import FUNCTIONS
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

DEVICE = torch.device("meta")
METHODS = [info.name for info in pkgutil.iter_modules(eyespot.pretrain.objectives.__path__)]
WRITTEN = Path(__file__).parent / "operators_per_step.json"
"""For each method, how many operators a step of its tiny recipe takes, and how many of them copy to the device."""
_MAKERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
_MOVES = ("aten._to_copy", "aten.copy_")


class Waits(TorchDispatchMode):
    """Counts what is done on the device, and notes what the host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.found: list[str] = []
        self.read_late = 0
        self._pinned: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = str(func).rsplit(".", 1)[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here, there = ([t for t in tensors if t.is_meta == on_device] for on_device in (False, True))
        if name.startswith("eyespot."):
            with self:
                return FUNCTIONS[func.name()](*args, **kwargs)
        if name in _MOVES and self._is_move(name, args, kwargs):
            return self._move(name, func, args, kwargs)
        if here and there and any(tensor.ndim for tensor in here):
            self.found.append(f"{name} takes a tensor of the CPU's and one of the device's")
        if there or torch.device(kwargs.get("device") or "cpu") == DEVICE:
            self.operators[name] += 1
        if name == "aten._fused_sgd_":  # this and the next torch cannot do without values
            return None
        if name == "aten.batch_norm_update_stats":
            return args[0].new_empty(args[0].shape[1]), args[0].new_empty(args[0].shape[1])
        try:
            return func(*args, **kwargs)
        except NotImplementedError as error:
            if "Cannot copy out of meta tensor" not in str(error):
                raise
            self.found.append(f"{name} {[str(arg)[:40] for arg in args]} {kwargs} reads from the device and waits")
            return torch.ones(args[0].shape, dtype=args[0].dtype)

    def _is_move(self, name: str, args: tuple, kwargs: dict) -> bool:
        if name == "aten.copy_":
            return args[0].is_meta != args[1].is_meta
        return torch.device(kwargs.get("device") or args[0].device).type != args[0].device.type

    def _move(self, name: str, func: Any, args: tuple, kwargs: dict) -> Any:
        source = args[-1] if name == "aten.copy_" else args[0]
        waits = not kwargs.get("non_blocking") and not (name == "aten.copy_" and len(args) > 2 and args[2])
        if source.is_meta:
            self.read_late += 1
            if waits:
                self.found.append(f"{name} reads from the device and waits")
            return torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        if source.ndim and (waits or not any(source is tensor for tensor in self._pinned)):
            self.found.append(f"{name} copies to the device from memory that is not pinned")
        self.operators["copy to the device"] += 1
        return func(*args, **kwargs)

    def pin(self, tensor: Tensor) -> Tensor:
        """In place of ``Tensor.pin_memory``, which needs a driver."""
        self._pinned.append(tensor.clone())
        return self._pinned[-1]


class _Made(TorchFunctionMode):
    """Notes tensors that are made of Python's numbers on the device, which the dispatcher does not see."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _MAKERS and made.is_meta:
            self._waits.found.append(f"{func.__name__} copies Python's numbers to the device")
        return made


class _Autocast(torch.autocast):
    """Of which torch has none for the stand-in."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)


@contextmanager
def watched() -> Iterator[Waits]:
    """Within it, work on the stand-in is counted."""
    waits = Waits()
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "autocast", _Autocast))
        stack.enter_context(patch.object(Tensor, "pin_memory", lambda tensor: waits.pin(tensor)))
        stack.enter_context(patch("torch.optim.adam._device_dtype_check_for_fused"))  # knows no stand-in
        stack.enter_context(_Made(waits))
        stack.enter_context(waits)
        yield waits


class StandInEngine(TorchEngine):
    """The engine of one process, its objective on the stand-in."""

    def __init__(self, objective: Objective, optim: OptimConfig) -> None:
        objective = objective.to(DEVICE)
        make = partial(make_optimizer, config=optim)
        super().__init__(objective, objective, make, Settings(clip=optim.clip or 1.0), DEVICE)

    def sync_gradients(self, last: bool) -> None:
        """Nothing is exchanged."""


def second_step(method: str, prepare: Callable[[Objective], None] = lambda objective: None) -> Waits:
    """What the second step of a method's tiny recipe does: in the first, some things are done once and for all.

    Args:
        method: a file of ``objectives/``.
        prepare: is done to the objective before it goes to the device.
    """
    objective, run = make_objective(method), make_run(f"{method}_tiny")
    batch = make_batch(objective)
    views, labels = [view.to(DEVICE) for view in batch.views], batch.labels.to(DEVICE)
    batch = replace(batch, views=views, labels=labels)  # as the loader hands it out for a GPU
    prepare(objective)
    with watched():
        engine = StandInEngine(objective, run.optim)
        statistics = RunningStatistics(objective)
        _take_step(engine, batch, statistics)
    with watched() as waits:
        _take_step(engine, batch, statistics)
    return waits


def _take_step(engine: StandInEngine, batch: Batch, statistics: RunningStatistics) -> None:
    """What the loop does in a step that is not logged."""
    statistics.keep()
    passed = StepRecord(0)
    scalars = engine.forward(MicroBatch(batch=batch))
    engine.backward(scalars["loss"])
    passed.add(batch, scalars)
    norm, taken = engine.step(1e-3, passed.finite())
    statistics.put_back_unless(taken)
    passed.close(norm, taken, logged=False)
    engine.objective.after_step(0.5, taken)


def counts(waits: Waits) -> dict[str, int]:
    """What is written down of a step."""
    return {"operators": sum(waits.operators.values()), "copies": waits.operators["copy to the device"]}


if __name__ == "__main__":
    WRITTEN.write_text(json.dumps({method: counts(second_step(method)) for method in METHODS}, indent=1) + "\n")
