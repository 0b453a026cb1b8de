"""The optimiser and which parameters decay."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.lars import LARS
from eyespot.pretrain.sgd import SGD


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """The optimiser and its rate: linear warm-up, then cosine or stairs, per step."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """sgd and lars have momentum; lars is for batches of thousands."""
    lr: float = 1.5e-4
    """Base learning rate per 256 images; the effective rate is lr * data.batch_size / 256."""
    min_lr: float = 0.0
    """Base learning rate at the end of the cosine, per 256 images."""
    warmup_steps: int = 0
    """Steps of the linear rise."""
    decay_at: tuple[float, ...] = ()
    """Shares of the run after each of which the rate falls to a tenth, in place of the cosine."""
    weight_decay: float = 0.05
    """Decay of matrices: decoupled in adamw, added to the gradient in sgd and lars."""
    decay_vectors: bool = False
    """Biases, norms and other vectors decay too. Not with lars."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of adamw's two moving averages."""
    momentum: float = 0.9
    """Share of the last step that sgd and lars take again."""
    trust: float = 0.001
    """Norm of a lars step as a share of the tensor's norm, at an effective rate of 1 and without momentum."""
    clip: float | None = None
    """Largest global gradient norm; None = not clipped."""

    def __post_init__(self) -> None:
        for name in ("lr", "trust"):
            if getattr(self, name) <= 0:
                raise UserError(f"optim.{name} {getattr(self, name)}: must be above 0")
        for name in ("min_lr", "warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name} {getattr(self, name)}: must be 0 or more")
        if not 0 <= self.momentum < 1:
            raise UserError(f"optim.momentum {self.momentum}: must be at least 0 and below 1")
        if self.clip is not None and self.clip <= 0:
            raise UserError(f"optim.clip {self.clip}: must be above 0; leave it out for no clipping")
        if self.decay_vectors and self.name == "lars":
            raise UserError("optim.decay_vectors True: lars leaves vectors alone; leave it out")
        self._check_stairs()

    def _check_stairs(self) -> None:
        if any(later <= earlier for earlier, later in itertools.pairwise((0.0, *self.decay_at, 1.0))):
            raise UserError(f"optim.decay_at {self.decay_at}: must be rising shares of the run between 0 and 1")
        if self.decay_at and self.min_lr:
            raise UserError(f"optim.min_lr {self.min_lr}: is the cosine's end, and optim.decay_at replaces the cosine")


def parameter_groups(module: nn.Module, weight_decay: float, *, decay_vectors: bool = False) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and tokens decay; vectors (biases, norms) where told to.

    It is the grouping of MAE's authors: by the number of dimensions, so class and mask tokens decay. MoCo's authors
    decay everything.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": weight_decay},
        {
            "params": [parameter for parameter in trainable if parameter.ndim <= 1],
            "weight_decay": weight_decay if decay_vectors else 0.0,
        },
    ]


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of the module's parameters; the engine sets the rate before each step."""
    matrices, vectors = parameter_groups(module, config.weight_decay, decay_vectors=config.decay_vectors)
    if config.name == "lars":
        matrices["trust"], vectors["trust"] = config.trust, None
    groups = [group for group in (matrices, vectors) if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, betas=config.betas, fused=True)
    if config.name == "sgd":
        return SGD(groups, momentum=config.momentum)
    return LARS(groups, momentum=config.momentum)
