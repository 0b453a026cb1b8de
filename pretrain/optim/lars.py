"""LARS: layer-wise adaptive rate scaling (You, Gitman & Ginsburg 2017, arXiv:1708.03888, algorithm 1).

With global rate r, momentum m, weight decay b and trust t, each weight tensor w of gradient g takes the step

    l = t ||w|| / (||g|| + b ||w||),    v <- m v + r l (g + b w),    w <- w - v.

Biases and norms take l = 1 and b = 0, as in SimCLR, BYOL and MoCo v3; the parameter group says so with ``trust`` None.

What differs elsewhere. SimCLR's TensorFlow code and Facebook Research's (MoCo v3, Barlow Twins) divide by
||g + b w|| instead of by the sum of the norms: the same within b ||w||, which at their b = 1e-6 is far below ||g||.
Facebook Research's multiplies by the rate after the momentum (w <- w - r v), as torch's SGD does; the paper and SimCLR
before it. The two are one while the rate stands still; during warm-up and cosine the paper's remembers old rates.
"""

# torch documents its foreach operations, underscore and all.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from eyespot.pretrain.distributed.process_group import own_share
from eyespot.pretrain.optim.tensor_norms import whole_norms


class LARS(torch.optim.Optimizer):
    """Momentum SGD whose step in each tensor is a fixed share of the tensor's norm.

    Args:
        params: parameters or groups; a group's ``trust`` None makes it plain momentum SGD.
        lr: global rate r.
        momentum: share m of the last step that is taken again.
        weight_decay: b, added to the gradient and so within the trust ratio.
        trust: t, the step's norm as a share of the tensor's, at r = 1; or None.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float | None = 0.001,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step with the gradients there are; the buffers of those parameters are created at their first.

        As torch's fused optimisers it divides gradients by its attribute ``grad_scale`` and does nothing where
        ``found_inf`` is 1: both tensors, which an engine may set that does not wait for the device.

        Args:
            closure: computes loss and gradients afresh, as for any of torch's optimisers.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(params, group)
        return loss

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients = [p.grad for p in params if p.grad is not None]
        if (scale := getattr(self, "grad_scale", None)) is not None:
            torch._foreach_div_([own_share(g) for g in gradients], scale)
        weights = [own_share(p) for p in params]
        updates = torch._foreach_add([own_share(g) for g in gradients], weights, alpha=group["weight_decay"])
        if group["trust"] is not None:
            torch._foreach_mul_(updates, trust_ratios(params, gradients, group["trust"], group["weight_decay"]))
        buffers = [own_share(self.state[p]["momentum_buffer"]) for p in params]
        if (found_inf := getattr(self, "found_inf", None)) is not None:
            _step_unless(found_inf, weights, torch._foreach_mul(updates, group["lr"]), buffers, group["momentum"])
            return
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates, alpha=group["lr"])
        torch._foreach_sub_(weights, buffers)


def _step_unless(
    found_inf: Tensor, weights: list[Tensor], updates: Iterable[Tensor], buffers: list[Tensor], momentum: float
) -> None:
    """v <- m v + u, w <- w - v where ``found_inf`` is 0: torch's fused SGD at a rate of 1, updates for gradients."""
    torch._fused_sgd_(
        weights,
        list(updates),
        buffers,
        weight_decay=0.0,
        momentum=momentum,
        lr=1.0,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=found_inf,
    )


def trust_ratios(
    params: list[Tensor], gradients: list[Tensor], trust: float, weight_decay: float
) -> tuple[Tensor, ...]:
    """l of each tensor (equation 6 of the paper): scalars on its device, the same on all ranks that share the tensor.

    A tensor that is all zero has no norm to go by and takes l = 1, so that it can leave zero. Where gradient and decay
    are zero any l does: the step is zero.
    """
    weights, slopes = whole_norms([*params, *gradients]).chunk(2)
    smallest = torch.finfo(weights.dtype).tiny
    ratios = trust * weights / (slopes + weight_decay * weights).clamp_min(smallest)
    return torch.where(weights > 0, ratios, 1.0).unbind()
