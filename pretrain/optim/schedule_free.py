"""AdamW without a schedule (Defazio et al. 2024, arXiv:2405.15682, algorithm 1): an average in place of a falling rate.

With rate r, beta1, beta2 and weight decay b there are three points: z, which AdamW without momentum moves; x, the
average of all z so far; and y between them, where gradients are computed.

    y = (1 - beta1) z + beta1 x,      v <- beta2 v + (1 - beta2) g^2,
    z <- z - r (g / (sqrt(v / (1 - beta2^t)) + eps) + b y),
    c = r^2 / (sum of r^2 so far),    x <- (1 - c) x + c z

Outside of a step the parameters are y. What is evaluated and saved is x. Its authors' package keeps z alone and gets x
out of y, which rounds, so that a run that saves would differ from one that does not; here x is kept: 4 more bytes for
each parameter, and every bit the same.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from eyespot.pretrain.distributed.process_group import own_share

AVERAGE = "average"
"""Of a parameter's state: x."""


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """AdamW whose weights are averaged, at a rate that only rises.

    Args:
        params: parameters or groups.
        lr: rate r.
        betas: beta1, the share of x in y; and beta2, of the squares' moving average.
        eps: is added to its root.
        weight_decay: b, decoupled, of y.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody here has a closure
        """One step with the gradients there are; skips on the device as torch's fused optimisers do (see LARS)."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, p.grad, group)

    def _step_one(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if AVERAGE not in self.state[p]:
            self._begin(p)
        state, (beta1, beta2) = self.state[p], group["betas"]
        y, slope = own_share(p), own_share(gradient)
        z, x, square = (own_share(state[slot]) for slot in ("z", AVERAGE, "exp_avg_sq"))
        taken: float | Tensor = 1.0
        if (scale := getattr(self, "grad_scale", None)) is not None:
            slope = slope / scale
        if (found_inf := getattr(self, "found_inf", None)) is not None:
            slope, taken = torch.where(found_inf > 0, 0.0, slope), 1 - found_inf
        rate, count, total = group["lr"] * taken, state["step"].add_(taken), state["weight_sum"]
        total.add_(rate * rate)
        square.add_((slope * slope - square) * ((1 - beta2) * taken))
        root = (square / (1 - beta2 ** count.clamp_min(1))).sqrt_().add_(group["eps"])
        z.sub_((slope / root).add_(y, alpha=group["weight_decay"]) * rate)
        share = rate * rate / total.clamp_min(torch.finfo(total.dtype).tiny)
        x.lerp_(z, share.to(x.dtype))
        y.copy_(torch.lerp(z, x, beta1))

    @torch.no_grad()
    def begin(self) -> None:
        """Where the parameters are now all three points are, and nothing is behind."""
        for group in self.param_groups:
            for p in group["params"]:
                self._begin(p)

    def _begin(self, p: Tensor) -> None:
        self.state[p] = {
            "step": torch.zeros((), dtype=torch.float64, device=p.device),
            "weight_sum": torch.zeros((), dtype=torch.float64, device=p.device),
            "z": p.detach().clone(),
            AVERAGE: p.detach().clone(),
            "exp_avg_sq": torch.zeros_like(p),
        }

    @torch.no_grad()
    def to_training(self) -> None:
        """The parameters are y, to the bit what they were before ``to_average``, or when the state was saved."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                own_share(p).copy_(torch.lerp(own_share(state["z"]), own_share(state[AVERAGE]), group["betas"][0]))

    @torch.no_grad()
    def to_average(self) -> None:
        """The parameters are x."""
        for state, p in ((self.state[p], p) for group in self.param_groups for p in group["params"]):
            own_share(p).copy_(own_share(state[AVERAGE]))


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The parameters are what is evaluated, for a while; those of other optimisers always are."""
    if not isinstance(optimizer, ScheduleFreeAdamW):
        yield
        return
    optimizer.to_average()
    try:
        yield
    finally:
        optimizer.to_training()
