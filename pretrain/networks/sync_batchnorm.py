"""Batch norm over all ranks (Ioffe & Szegedy 2015, arXiv:1502.03167), on any device; torch's knows GPUs only.

On a GPU the arithmetic is that of torch's kernels for it, which read and write an activation eight times in a forward
and a backward pass (16 bytes an element in bf16); the single operations for a CPU would do so four times as often.

Mean and variance of the batch of all ranks together, so that W ranks learn what one process with the whole batch
would, and no rank can tell its own samples by their statistics. In one forward pass each rank hands out its mean,
variance and count, which are pooled without differences of large sums (Chan et al. 1979):

    mean = sum_r n_r mean_r / n,    variance = sum_r n_r (variance_r + (mean_r - mean)^2) / n.

With several micro-batches per step the statistics are those of a micro-batch over all ranks, and the running ones move
once per micro-batch, as they do on one process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.collectives import all_gather, group_name
from eyespot.pretrain.skipped_step import Taken, if_taken


class _Synchronized(_BatchNorm):
    """What a synchronised class does in place of its own forward pass, in training mode."""

    def forward(self, input: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
        """Normalised by the statistics of all ranks; in evaluation mode, or without other ranks, as ever."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        normal = self._by_kernels(input) if input.is_cuda else self._by_operations(input)
        if isinstance(self, BatchNormAct2d):
            return self.act(self.drop(normal))  # pyright: ignore[reportCallIssue]
        return normal

    def _by_kernels(self, x: Tensor) -> Tensor:
        """What torch.nn.SyncBatchNorm computes, whose kernel for pooled statistics moves the running ones, too."""
        running = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        share = self._next_share() if running[0] is not None else 0.0
        return cast(Tensor, _NormalizeByKernels.apply(x, self.weight, self.bias, *running, share, self.eps))

    def _by_operations(self, x: Tensor) -> Tensor:
        mean, variance, count = pooled_statistics(x)
        self._follow(mean, variance, count)
        return cast(Tensor, _Normalize.apply(x, self.weight, self.bias, mean, variance, count, self.eps))

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Moves the running statistics: towards the unbiased variance, as torch does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        share = self._next_share()
        self.running_mean.mul_(1 - share).add_(mean, alpha=share)
        self.running_var.mul_(1 - share).add_(variance * (count / (count - 1)), alpha=share)

    @torch.no_grad()
    def _next_share(self) -> float:
        """Counts the batch: the running statistics' share of it."""
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            share = 1 / float(self.num_batches_tracked) if share is None else share
        return share or 0.0


class SynchronizedBatchNorm1d(_Synchronized, nn.BatchNorm1d):
    """nn.BatchNorm1d over all ranks."""


class SynchronizedBatchNorm2d(_Synchronized, nn.BatchNorm2d):
    """nn.BatchNorm2d over all ranks."""


class SynchronizedBatchNormAct2d(_Synchronized, BatchNormAct2d):
    """timm's batch norm with activation over all ranks."""


SYNCHRONIZED: dict[type[nn.Module], type[_Synchronized]] = {
    nn.BatchNorm1d: SynchronizedBatchNorm1d,
    nn.BatchNorm2d: SynchronizedBatchNorm2d,
    BatchNormAct2d: SynchronizedBatchNormAct2d,
}


def synchronize_batch_norm(module: nn.Module) -> None:
    """Makes every batch norm in ``module`` use the statistics of all ranks of the default group when training.

    The modules stay the very same objects with another class, so parameters, buffers, hooks, state-dict names and
    whoever else holds them notice nothing. All ranks must run them in the same order.

    Raises:
        UserError: it holds a kind of batch norm that would go on silently by itself.
    """
    for name, part in module.named_modules():
        if type(part) in SYNCHRONIZED:
            part.__class__ = SYNCHRONIZED[type(part)]
        elif isinstance(part, _BatchNorm) and not isinstance(part, (_Synchronized, nn.SyncBatchNorm)):
            raise UserError(
                f"{name} {type(part).__name__}: cannot be synchronised across ranks; use nn.BatchNorm1d or BatchNorm2d"
            )


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, batch norms in training mode use the batch's statistics as ever, and do not note them."""
    tracking = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for part in tracking:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True


class RunningStatistics:
    """A copy of what batch norms have gathered, to go back to. It is made anew at each ``keep``, in the same memory.

    Numbers of one type lie in one tensor: a handful of operators, whatever the number of layers.

    Args:
        module: whose batch norms; they keep their tensors.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        live = [buffer.detach().view(-1) for norm in norms for buffer in norm.buffers(recurse=False)]
        self._live = [[one for one in live if one.dtype == kind] for kind in {one.dtype: None for one in live}]
        self._copies = [torch.cat(group) for group in self._live]

    @torch.no_grad()
    def keep(self) -> None:
        """Remembers them as they are now."""
        for live, copy in zip(self._live, self._copies, strict=True):
            torch.cat(live, out=copy)

    @torch.no_grad()
    def put_back(self) -> None:
        """Makes them again what they were."""
        for live, copy in zip(self._live, self._copies, strict=True):
            _scatter(copy, live)

    @torch.no_grad()
    def put_back_unless(self, taken: Taken) -> None:
        """Makes them again what they were where a step was not taken; no host waits to hear whether it was."""
        if isinstance(taken, bool):
            return None if taken else self.put_back()
        for live, copy in zip(self._live, self._copies, strict=True):
            _scatter(if_taken(taken, torch.cat(live), copy), live)
        return None


def _scatter(flat: Tensor, targets: list[Tensor]) -> None:
    torch._foreach_copy_(targets, flat.split([len(target) for target in targets]))  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def pooled_statistics(
    x: Float[Tensor, "b c *spatial"],
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"], Float[Tensor, ""]]:
    """Mean, biased variance and number of values per channel over all ranks, in fp32 or better; one all-gather."""
    precise = torch.promote_types(x.dtype, torch.float32)
    zeros, ones = (fill(x.shape[1], dtype=precise, device=x.device) for fill in (torch.zeros, torch.ones))
    # They only tell torch in which precision to add up; at momentum 0 they stay as they are.
    mean, variance = torch.batch_norm_update_stats(x, zeros, ones, 0.0)
    means, variances, counts = _of_all_ranks(mean, variance, x)
    count = counts.sum()
    shares = counts / count
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean, variance, count


def _of_all_ranks(mean: Float[Tensor, " c"], spread: Float[Tensor, " c"], x: Tensor) -> tuple[Tensor, ...]:
    """Every rank's mean, measure of spread, (ranks, c) each, and number of values per channel of x, (ranks, 1)."""
    own = torch.cat([mean, spread, mean.new_full((1,), x.numel() // len(mean))])
    return all_gather(own[None], group_name(None)).split([len(mean), len(mean), 1], dim=1)


class _Normalize(torch.autograd.Function):
    """w (x - mean) / sqrt(variance + eps) + b, where mean and variance depend on the x of all ranks.

    The gradient in x is that of the sum of all ranks' losses (Ioffe & Szegedy, section 3, with sums over all ranks);
    those in w and b are of the own rank's loss: the engine averages them as it does for any parameter.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.has_bias = eps, bias is not None
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = gradients
        x, weight, mean, variance, count = ctx.saved_tensors
        _, in_weight, in_bias = torch.ops.aten.native_batch_norm_backward(
            slope, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        totals = torch.stack([in_weight, in_bias])
        dist.all_reduce(totals)
        along, level = (totals / count).view(2, 1, -1, *[1] * (x.ndim - 2))
        shape = level.shape
        rate = (variance + ctx.eps).rsqrt()
        scale = rate if weight is None else rate * weight
        in_x = (x - mean.view(shape)).mul_(-rate.view(shape) * along).add_(slope).sub_(level).mul_(scale.view(shape))
        own = (in_weight if weight is not None else None, in_bias if ctx.has_bias else None)
        return in_x.to(x.dtype), *own, None, None, None, None


class _NormalizeByKernels(torch.autograd.Function):
    """As ``pooled_statistics``, ``_follow`` and ``_Normalize``, by torch's CUDA kernels with our exchanges between."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        share: float,
        eps: float,
    ) -> Tensor:
        x = _dense(x)
        mean, inverse = torch.batch_norm_stats(x, eps)
        means, inverses, counts = _of_all_ranks(mean, inverse, x)
        counts = counts.flatten()
        # The kernel asks its first argument for nothing but the type of the counts, and bf16 cannot count.
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            means, means, inverses, running_mean, running_var, share, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse, counts.int())
        ctx.has_bias = bias is not None
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, inverse, counts = ctx.saved_tensors
        slope = _dense(gradients[0])
        # Of the weight the kernel wants the type alone; without one it would take the sums to be of x's.
        slopes, products, in_weight, in_bias = torch.batch_norm_backward_reduce(
            slope, x, mean, inverse, mean if weight is None else weight, True, weight is not None, ctx.has_bias
        )
        totals = torch.stack([slopes, products])
        dist.all_reduce(totals)
        in_x = torch.batch_norm_backward_elemt(slope, x, mean, inverse, weight, totals[0], totals[1], counts)
        return in_x, in_weight, in_bias, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """With channels last where it is, else as kernels know it."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
