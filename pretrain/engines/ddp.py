"""DDP: every process holds the whole objective, gradients are averaged. Also the engine of a single process."""

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from eyespot.data_pipeline.batch import Batch
from eyespot.pretrain.contrastive import Contrastive, Rows
from eyespot.pretrain.dist import World
from eyespot.pretrain.engine import MakeOptimizer, Precision
from eyespot.pretrain.grad_cache import cached_gradients
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
        self._bf16 = precision == "bf16"
        self._wrapped = DistributedDataParallel(objective, broadcast_buffers=False) if world.size > 1 else None
        self._optimizer = make_optimizer(objective)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._fill_optimizer_state()

    def forward_backward(self, micro_batches: Iterable[tuple[Batch, int]]) -> list[dict[str, Tensor]]:
        """One step's gradient; it crosses the network with the last micro-batch only."""
        if isinstance(self.objective, Contrastive) and self._accumulate > 1:
            cached, scalars = cached_gradients(self.objective, micro_batches, self._autocast)
            for number, (batch, seed, gradients) in enumerate(cached, 1):
                self._backward(batch, seed, last=number == self._accumulate, gradients=gradients)
            return [scalars] * len(cached)
        return [
            self._backward(batch, seed, last=number == self._accumulate)
            for number, (batch, seed) in enumerate(micro_batches, 1)
        ]

    def _backward(self, batch: Batch, seed: int, *, last: bool, gradients: Rows | None = None) -> dict[str, Tensor]:
        """Adds one micro-batch's share of the gradient: of its own loss, or of the step's that was ``gradients``."""
        torch.manual_seed(seed)
        objective, known = self._wrapped or self.objective, {} if gradients is None else {"gradients": gradients}
        with self._wrapped.no_sync() if self._wrapped is not None and not last else contextlib.nullcontext():
            with self._autocast():
                scalars = objective(batch, **known)
            loss = scalars["loss"] if gradients is not None else scalars["loss"] / self._accumulate
            loss.backward()
        return {name: scalar.detach() for name, scalar in scalars.items()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

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

        A step at rate 0 with zero gradients changes no parameter; the slots, in which weight decay may
        have left something, go back to 0 after it.
        """
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        self._optimizer.step()
        self.discard()
        for state in self._optimizer.state.values():
            for slot in state.values():
                slot.zero_()


def make(objective: Objective, world: World, make_optimizer: MakeOptimizer, **options: Any) -> DDPEngine:
    """The engine of this file."""
    return DDPEngine(objective, world, make_optimizer, **options)
