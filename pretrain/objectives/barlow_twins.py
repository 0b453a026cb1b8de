"""Barlow Twins: self-supervised learning via redundancy reduction (Zbontar et al. 2021, arXiv:2103.03230).

Loss (equations 1 and 2): with C_ij the correlation, over the batch, of output i for one view with output j for the
other,

    L = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2.

What differs from the authors' code: its factor of 0.024 on the loss, which LARS does not feel, is left out, and with
it the other learning rate for biases and norms; both views go through the encoder in one pass, so batch norm sees them
together, theirs in a pass each.

To expect: ResNet-50 on ImageNet-1k, 1000 epochs: 73.2 % linear probe (table 1).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.losses.redundancy_reduction import barlow_twins_loss
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, in_one_pass

_VIEW = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)


class BarlowTwins(Contrastive):
    """Outputs for two views are alike, and no output repeats another."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's defaults (section 2.2, views as BYOL's)."""

        about: ClassVar = About(
            family="joint embedding",
            task="the same numbers for two views, none of which repeats another",
            paper="Zbontar et al.",
            year=2021,
            link="arXiv:2103.03230",
            expected="ResNet-50, ImageNet-1k, 1000 epochs, linear: 73.2 %",
        )

        weight: Annotated[float, Ge(0)] = 0.0051
        """lambda: how much repetition weighs against difference of the views."""
        dim: Annotated[int, Ge(1)] = 8192
        """Width of the three layers of the projector."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How the first view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the second view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "BarlowTwins":
            """Barlow Twins around any encoder."""
            return BarlowTwins(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """A correlation needs samples."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: Barlow Twins correlates samples, so it needs 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), *[config.dim] * 3, batch_norm=True)

    def views(self) -> ViewSpec:
        """Two views of different kinds."""
        return in_one_pass(self.image_size, first=self.config.first, second=self.config.second)

    def embed(self, batch: Batch) -> Rows:
        """The projector's output for both views, from one pass."""
        first, second = self.head(self.encode(torch.cat(batch.views))).chunk(2)
        return {"first": first, "second": second}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}, its two terms; and how alike views of one image and of different ones are."""
        first, second = rows["first"], rows["second"]
        return {**barlow_twins_loss(first, second, self.config.weight), **similarities(first, second)}
