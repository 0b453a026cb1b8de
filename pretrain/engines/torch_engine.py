"""TorchEngine: what engines share that leave torch's parameters and optimiser in place."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.arithmetic import refusals_in_words
from eyespot.pretrain.distributed.process_group import own_share
from eyespot.pretrain.engine import MakeOptimizer, MicroBatch, ReadTensors, Settings
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import set_rate
from eyespot.pretrain.optim.schedule_free import AVERAGE, ScheduleFreeAdamW, averaged
from eyespot.pretrain.optim.tensor_norms import whole_norms
from eyespot.pretrain.skipped_step import Taken


class TorchEngine(ABC):
    """An engine (see engine.py) around a module that torch itself can step; parameters may be DTensors.

    Args:
        objective: on its device, wrapped or sharded as the engine wishes.
        call: what runs its forward pass.
        make_optimizer: gets the objective.
        settings: of the run.
        device: of this process.
    """

    def __init__(
        self,
        objective: Objective,
        call: Callable[..., dict[str, Any]],
        make_optimizer: MakeOptimizer,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.objective, self._call, self._settings, self._device = objective, call, settings, device
        self.decides_on_device = device.type != "cpu"
        self._optimizer = make_optimizer(objective)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._fill_optimizer_state()

    @abstractmethod
    def sync_gradients(self, last: bool) -> None:
        """Before a forward pass: whether ranks exchange gradients in its backward pass, the step's last."""

    def forward(self, part: MicroBatch) -> dict[str, Any]:
        """The objective's forward pass in the run's precision."""
        torch.manual_seed(part.seed)
        self.sync_gradients(part.last)
        return self._forward(part.batch, **part.known)

    def _forward(self, batch: Batch, **known: Any) -> dict[str, Any]:
        with refusals_in_words(self._settings.accumulate), self.autocast():
            return self._call(batch, **known)

    def backward(self, loss: Tensor) -> None:
        """Adds its gradient."""
        with refusals_in_words():
            loss.backward()

    def autocast(self) -> torch.autocast:
        """The run's precision."""
        return self._settings.autocast(self._device)

    def step(self, lr: float, finite: Taken = True, done: float = 1.0) -> tuple[float | Tensor, Taken]:
        """Clips by the global norm and steps; skips when the norm is not finite."""
        set_rate(self._optimizer, lr, done)
        step = self._step_on_device if self.decides_on_device else self._step_on_host
        norm_and_taken = step(finite)
        self.discard()
        return norm_and_taken

    def _step_on_host(self, finite: Taken) -> tuple[float, bool]:
        if not finite:
            return math.nan, False
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = float(whole_norms(gradients).norm())
        if applied := math.isfinite(norm):
            if self._settings.clip is not None and norm > self._settings.clip:
                torch._foreach_mul_([own_share(g) for g in gradients], self._settings.clip / norm)  # pyright: ignore[reportPrivateImportUsage]
            self._optimizer.step()
        return norm, applied

    def _step_on_device(self, finite: Taken) -> tuple[Tensor, Tensor]:
        """The optimiser's own kernels divide by ``grad_scale`` and do nothing where ``found_inf`` is 1."""
        norm = whole_norms([p.grad for p in self._parameters if p.grad is not None]).norm()
        taken = norm.isfinite() & finite
        told: Any = self._optimizer
        told.found_inf = (~taken).to(norm.dtype)
        told.grad_scale = None if self._settings.clip is None else (norm / self._settings.clip).clamp_min(1)
        told.step()
        return norm, taken

    def discard(self) -> None:
        """Drops the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def averaged(self) -> AbstractContextManager[None]:
        """The optimiser's average in place of the weights that learn, where it has one."""
        return averaged(self._optimizer)

    def save_tensors(self) -> dict[str, Tensor]:
        """The live parameters, persistent buffers and optimiser slots, by the parameter's name."""
        slots, tensors = self._optimizer.state, dict[str, Tensor]()
        for name, tensor in self.objective.state_dict(keep_vars=True).items():
            tensors[f"model.{name}"] = slots.get(tensor, {}).get(AVERAGE, tensor).detach()
        for name, parameter in self.objective.named_parameters():
            kept = ((slot, value) for slot, value in slots.get(parameter, {}).items() if slot != AVERAGE)
            tensors |= {f"optim.state.{name}.{slot}": value for slot, value in kept}
        return tensors

    def load_tensors(self, read: ReadTensors) -> None:
        """Reads into the live tensors."""
        read(self.save_tensors())
        if isinstance(self._optimizer, ScheduleFreeAdamW):
            self._optimizer.to_training()

    def close(self) -> None:  # noqa: B027 - torch frees it
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
        if isinstance(self._optimizer, ScheduleFreeAdamW):
            self._optimizer.begin()
