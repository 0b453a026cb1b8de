"""Standardized: features of a fixed encoder, each channel with mean 0 and deviation 1.

What encoders hand out is no cloud around 0: channels have means of their own, of EfficientNet's some that make two
images' features alike to a cosine of 0.4 before anything is said of either; and scales of their own. A student that is
asked for them learns the mean first, and small channels last. UNIC (Sariyildiz et al. 2024, arXiv:2408.05088)
standardises teachers' features for that reason, by averages that move. A fixed encoder's need not: they are those of
all that it has said since the run began, of all ranks and micro-batches.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.pretrain.distributed.collectives import in_batch_order
from eyespot.pretrain.skipped_step import Taken, if_taken

SMALLEST = 1e-6
"""Of the mean variance, what is added to that of each channel: one that never moves stays 0."""


class Standardized(nn.Module):
    """Takes its mean from each channel, and divides by its deviation. Until the first step is done, changes nothing.

    Args:
        width: channels.
    """

    mean: Float[Tensor, " d"]
    """Of each channel, over all vectors of all steps."""
    variance: Float[Tensor, " d"]
    """Of each channel, as well."""
    steps: Float[Tensor, ""]
    """How many steps that were."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("steps", torch.zeros(()))
        self._noted: list[Tensor] = []

    def forward(self, features: Float[Tensor, "b *n d"], *, noted: bool) -> Float[Tensor, "b *n d"]:
        """The features, standardised by what was known before this step; in float32 at least.

        Args:
            features: channels last; as many vectors in each micro-batch.
            noted: whether they count for later steps.
        """
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        if noted:
            rows = wide.detach().flatten(0, -2)
            self._noted.append(torch.stack([rows.mean(0), rows.var(0, correction=0)])[None])
        scale = (self.variance + SMALLEST * self.variance.mean()).rsqrt()
        return (wide - self.mean) * scale

    def after_step(self, taken: Taken = True) -> None:
        """What the step's micro-batches noted, on all ranks, counts as much as each step before."""
        if self._noted:
            means, variances = in_batch_order(torch.stack(self._noted)).unbind(1)
            mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
            share, gap = 1 / (self.steps + 1), mean - self.mean
            spread = self.variance.lerp(variance, share) + share * (1 - share) * gap.square()
            self.mean.copy_(if_taken(taken, self.mean + share * gap, self.mean))
            self.variance.copy_(if_taken(taken, spread, self.variance))
            self.steps.copy_(if_taken(taken, self.steps + 1, self.steps))
        self._noted.clear()

    def after_skip(self) -> None:
        """What a step that was not taken noted is forgotten."""
        self._noted.clear()
