"""DDP: every process holds the whole objective, gradients are averaged. Also the engine of a single process."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from eyespot.data_pipeline.batch import Batch
from eyespot.pretrain.dist import World
from eyespot.pretrain.engine import MakeOptimizer, Precision
from eyespot.pretrain.objective import Objective


class DDPEngine:
    """torch's DistributedDataParallel where there are several processes, the bare objective where there is one."""

    def __init__(
        self,
        objective: Objective,
        world: World,
        make_optimizer: MakeOptimizer,
        *,
        accumulate: int,
        clip: float | None,
        precision: Precision,
    ) -> None:
        self.objective = objective.to(world.device)
        self._device, self._accumulate, self._clip = world.device, accumulate, clip
        self._autocast = precision == "bf16"
        self._wrapped = DistributedDataParallel(objective) if world.size > 1 else None
        self._optimizer = make_optimizer(objective)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._fill_optimizer_state()

    def forward_backward(self, batch: Batch, *, last: bool) -> dict[str, Tensor]:
        """One micro-batch; gradients cross the network with the last one only."""
        with self._wrapped.no_sync() if self._wrapped is not None and not last else contextlib.nullcontext():
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                scalars = (self._wrapped or self.objective)(batch)
            (scalars["loss"] / self._accumulate).backward()
        return {name: scalar.detach() for name, scalar in scalars.items()}

    def step(self, lr: float) -> tuple[float, bool]:
        """Clips by the global norm and steps; skips when the norm is not finite."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        norm = float(total)
        if applied := math.isfinite(norm):
            if self._clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, total)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self.discard()
        return norm, applied

    def discard(self) -> None:
        """Drops the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def save_tensors(self) -> dict[str, Tensor]:
        """Parameters, persistent buffers and the optimiser's slots, by the parameter's name."""
        tensors = {f"model.{name}": tensor.detach() for name, tensor in self.objective.state_dict().items()}
        for name, parameter in self.objective.named_parameters():
            for slot, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optim.state.{name}.{slot}"] = value
        return tensors

    def close(self) -> None:
        """Nothing is held beyond the objective."""

    def _fill_optimizer_state(self) -> None:
        """Creates the slots before the first step, so that a checkpoint can be read into them.

        A step at rate 0 with zero gradients changes no parameter; the step counters go back to 0 after it.
        """
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        self._optimizer.step()
        self.discard()
        for state in self._optimizer.state.values():
            state["step"].zero_()


def make(objective: Objective, world: World, make_optimizer: MakeOptimizer, **options: Any) -> DDPEngine:
    """The engine of this file."""
    return DDPEngine(objective, world, make_optimizer, **options)
