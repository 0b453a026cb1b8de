"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

With rate r, momentum m and weight decay b, each hidden matrix w of A rows and B columns, gradient g, takes the step

    v <- m v + (1 - m) g,    u = NS(m v + (1 - m) g),    w <- (1 - r b) w - r 0.2 sqrt(max(A, B)) u.

NS brings every singular value near 1 and leaves the singular vectors: five times x <- a x + (b x x' + c (x x')^2) x,
from the matrix over its Frobenius norm. The factor 0.2 sqrt(max(A, B)) gives the step the size of AdamW's (Liu et al.
2025, arXiv:2502.16982, equation 4), so that one rate and one weight decay serve both: whatever is no hidden matrix
(embeddings, heads, norms, biases, tokens) is AdamW's.

torch.optim.Muon takes matrices only, waits for the device where a step is to be skipped, and rounds to bf16 on a CPU,
too; a test holds this one against it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from eyespot.pretrain.distributed.process_group import own_share
from eyespot.pretrain.networks.repeated_blocks import repeated_blocks

HIDDEN = "hidden"
"""Of a parameter group: whether it holds the matrices that Muon itself moves."""
COEFFICIENTS, NS_STEPS = (3.4445, -4.7750, 2.0315), 5
"""a, b, c of its authors: steep at zero, at the price of singular values between 0.7 and 1.2 in place of 1."""
_SMALLEST = 1e-7
"""Norm below which a matrix counts as zero."""


class Muon(torch.optim.AdamW):
    """Muon for the groups that are ``hidden``, AdamW for the others.

    Where an engine has cut up a matrix, the ranks gather it, and each makes it orthogonal: the same products of the
    same numbers as in one process. On a GPU these are in bf16, as its authors', elsewhere in the matrix's precision.

    Args:
        params: groups.
        momentum: m.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], *, momentum: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(params, betas=betas, eps=eps, fused=True)
        self._momentum = momentum

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody here has a closure
        """One step with the gradients there are; skips on the device as torch's fused optimisers do (see LARS)."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get(HIDDEN)]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            for p in group["params"] if group.get(HIDDEN) else ():
                if p.grad is not None:
                    self._step_hidden(p, p.grad, group["lr"], group["weight_decay"])

    def _step_hidden(self, p: Tensor, gradient: Tensor, rate: float | Tensor, decay: float) -> None:
        if "momentum_buffer" not in self.state[p]:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        weight, slope, buffer = own_share(p), own_share(gradient), own_share(self.state[p]["momentum_buffer"])
        if (scale := getattr(self, "grad_scale", None)) is not None:
            slope = slope / scale
        if (found_inf := getattr(self, "found_inf", None)) is not None:
            slope, rate = torch.where(found_inf > 0, buffer, slope), rate * (1 - found_inf)
        buffer.lerp_(slope, 1 - self._momentum)
        update = orthogonal_share(slope.lerp(buffer, self._momentum), p)
        rows, columns = p.shape[0], p.shape[1:].numel()
        weight.mul_(1 - rate * decay).sub_(update * (rate * 0.2 * max(rows, columns) ** 0.5))


def hidden_matrices(module: nn.Module) -> set[int]:
    """Ids of the weights of linear layers and of convolutions in the repeated blocks of encoders and decoders.

    Convolutions in groups are no matrices. Blocks that stand alone in their stage are not repeated, and so AdamW's.
    """
    found = set[int]()
    for block in repeated_blocks(module):
        for part in block.modules():
            if isinstance(part, nn.Linear) or (
                isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) and part.groups == 1
            ):
                found.add(id(part.weight))
    return found


def with_hidden(groups: list[dict[str, Any]], hidden: set[int]) -> list[dict[str, Any]]:
    """The groups, each cut in two: what is ``hidden``, and the rest."""
    found: list[dict[str, Any]] = []
    for group in groups:
        inside = [parameter for parameter in group["params"] if id(parameter) in hidden]
        outside = [parameter for parameter in group["params"] if id(parameter) not in hidden]
        found += [{**group, "params": inside, HIDDEN: True}, {**group, "params": outside, HIDDEN: False}]
    return found


def orthogonal_share(share: Tensor, p: Tensor) -> Tensor:
    """This rank's share of a whole matrix made orthogonal.

    Args:
        share: this rank's share of the matrix.
        p: the parameter, by which it is cut up, or not.
    """
    if not isinstance(p, DTensor):
        return orthogonalized(share.flatten(1)).view(share.shape).to(share.dtype)
    cut = {"run_check": False, "shape": p.shape, "stride": p.stride()}
    whole = DTensor.from_local(share, p.device_mesh, p.placements, **cut).full_tensor()
    whole = orthogonalized(whole.flatten(1)).view(p.shape).to(share.dtype).contiguous()
    everywhere = DTensor.from_local(whole, p.device_mesh, [Replicate()] * p.device_mesh.ndim, **cut)
    return everywhere.redistribute(placements=p.placements).to_local()


def orthogonalized(matrix: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    """The matrix with singular values near 1, by Newton and Schulz's iteration; zero stays zero."""
    a, b, c = COEFFICIENTS
    found = matrix.bfloat16() if matrix.is_cuda else matrix
    found = found.mT if matrix.shape[0] > matrix.shape[1] else found
    found = found / found.norm().clamp_min(_SMALLEST)
    for _ in range(NS_STEPS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.mT if matrix.shape[0] > matrix.shape[1] else found
