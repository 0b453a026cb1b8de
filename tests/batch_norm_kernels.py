"""torch's CUDA kernels for batch norm over ranks, as plain operations: for a CPU, and for fake tensors of a GPU.

With the demands that the kernels make of types, which plain operations would not notice.
"""

import torch
from torch import Tensor

_STATISTICS = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
"""What the kernels add up in."""


def stand_in(device_key: str) -> torch.library.Library:
    """Registers them for "CPU" or "Meta", for as long as the answer lives."""
    library = torch.library.Library("aten", "IMPL")
    for function in (
        batch_norm_stats,
        batch_norm_gather_stats_with_counts,
        batch_norm_elemt,
        batch_norm_backward_reduce,
        batch_norm_backward_elemt,
    ):
        library.impl(function.__name__, function, device_key)
    return library


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.to(_STATISTICS[x.dtype]), _others(x), correction=0)
    return mean, (variance + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    inverses: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    typed = x if running_mean is None else running_mean
    assert counts.dtype == typed.dtype and counts.ndim == 1
    assert means.dtype == inverses.dtype == _STATISTICS[typed.dtype]
    total = counts.sum()
    shares = (counts / total)[:, None]
    mean = (shares * means).sum(0)
    variance = (shares * (1 / inverses.square() - eps + (means - mean).square())).sum(0)
    if running_mean is not None and running_var is not None:
        running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
        running_var.copy_((1 - momentum) * running_var + momentum * variance * total / (total - 1))
    return mean, (variance + eps).rsqrt()


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float
) -> Tensor:
    assert mean.dtype == inverse.dtype == _STATISTICS[x.dtype]
    normal = (x - _along(mean, x)) * _along(inverse, x)
    normal = normal if weight is None else normal * _along(weight, x)
    return (normal if bias is None else normal + _along(bias, x)).to(x)


def batch_norm_backward_reduce(
    slope: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> tuple[Tensor | None, ...]:
    assert slope.dtype == x.dtype and slope.is_contiguous() == x.is_contiguous()
    assert weight is not None and weight.dtype == mean.dtype == _STATISTICS[x.dtype]
    wide = slope.to(mean.dtype)
    slopes, products = wide.sum(_others(x)), (wide * (x - _along(mean, x))).sum(_others(x))
    return slopes, products, products * inverse if weight_g else None, slopes.clone() if bias_g else None


def batch_norm_backward_elemt(
    slope: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    slopes: Tensor,
    products: Tensor,
    counts: Tensor,
) -> Tensor:
    assert counts.dtype == torch.int32 and counts.is_contiguous()
    assert slopes.dtype == products.dtype == mean.dtype == _STATISTICS[x.dtype]
    total = counts.sum()
    scale = inverse if weight is None else inverse * weight
    along = _along(inverse.square() * products / total, x)
    in_x = (slope - _along(slopes / total, x) - (x - _along(mean, x)) * along) * _along(scale, x)
    return in_x.to(x)


def _others(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _along(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))
