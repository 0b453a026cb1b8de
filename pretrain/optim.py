"""The optimiser and which parameters decay."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, both per step."""

    lr: float = 1.5e-4
    """Base learning rate per 256 images; the effective rate is lr * data.batch_size / 256."""
    min_lr: float = 0.0
    """Base learning rate at the end of the cosine, per 256 images."""
    warmup_steps: int = 0
    """Steps of the linear rise."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; biases, norms and other vectors have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two moving averages."""
    clip: float | None = None
    """Largest global gradient norm; None = not clipped."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optim.lr {self.lr}: must be above 0")
        if self.warmup_steps < 0:
            raise UserError(f"optim.warmup_steps {self.warmup_steps}: must be 0 or more")
        if self.clip is not None and self.clip <= 0:
            raise UserError(f"optim.clip {self.clip}: must be above 0; leave it out for no clipping")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and tokens decay, vectors (biases, norms) do not.

    It is the grouping of MAE's authors: by the number of dimensions, so class and mask tokens decay.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over the module's parameters; the engine sets the rate before each step."""
    groups = parameter_groups(module, config.weight_decay)
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=config.betas, fused=True)
