"""SGD with momentum, torch's fused one, that works on an engine's shards too.

    v <- m v + g + b w,    w <- w - r v        (Nesterov's: w <- w - r (g + b w + m v))

with rate r, momentum m and weight decay b. It works on each number by itself, so each rank does its share of every
tensor; torch's own class refuses tensors that are cut up (DTensors), though its AdamW takes them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from eyespot.pretrain.distributed.process_group import own_share


class SGD(torch.optim.Optimizer):
    """Momentum SGD; to the bit what torch.optim.SGD(fused=True) does.

    Args:
        params: parameters or groups.
        lr: rate r.
        momentum: share m of the last step that is taken again.
        weight_decay: b, added to the gradient.
        nesterov: steps along the gradient and the momentum of the step after.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody here has a closure
        """One step with the gradients there are; the buffers of those parameters are created at their first.

        As torch's fused optimisers it divides gradients by its attribute ``grad_scale`` and does nothing where
        ``found_inf`` is 1: both tensors, which an engine may set that does not wait for the device.
        """
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(params, group)

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        buffers: list[Tensor] = []
        if group["momentum"]:
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(own_share(self.state[p]["momentum_buffer"]))
        torch._fused_sgd_(  # pyright: ignore[reportPrivateImportUsage] - torch.optim.SGD calls it too
            [own_share(p) for p in params],
            [own_share(p.grad) for p in params if p.grad is not None],
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=group["nesterov"],
            maximize=False,
            is_first_step=False,  # the buffers are there
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
        )
