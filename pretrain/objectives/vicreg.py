"""VICReg: variance-invariance-covariance regularization (Bardes et al. 2022, arXiv:2105.04906).

Loss (equation 6): the views' outputs lie close together (invariance), each output varies over the batch by 1 or more
(variance), and no two outputs vary together (covariance):

    L = 25 s(z, z') + 25 (v(z) + v(z')) / 2 + (c(z) + c(z')).

The exact terms are those of the authors' code; see ``redundancy.vicreg_loss``. What differs from it: both views go
through the encoder in one pass, so batch norm sees them together; the last linear layer has a bias.

To expect: ResNet-50 on ImageNet-1k, 1000 epochs: 73.2 % linear probe (table 1).
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.losses.redundancy_reduction import VICRegWeights, vicreg_loss
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, in_one_pass

_VIEW = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)


class VICReg(Contrastive):
    """Outputs for two views are alike; each varies, and none together with another."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's defaults (section 4.2, views as BYOL's)."""

        about: ClassVar = About(
            family="joint embedding",
            task="close outputs for two views, each of which varies on its own",
            paper="Bardes et al.",
            year=2022,
            link="arXiv:2105.04906",
            expected="ResNet-50, ImageNet-1k, 1000 epochs, linear: 73.2 %",
        )

        weights: VICRegWeights = field(default_factory=VICRegWeights)
        """What the three terms are multiplied by."""
        dim: Annotated[int, Ge(1)] = 8192
        """Width of the three layers of the expander."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How the first view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the second view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "VICReg":
            """VICReg around any encoder."""
            return VICReg(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """A variance needs samples."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: VICReg measures variance, so it needs 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), *[config.dim] * 3, batch_norm=True)

    def views(self) -> ViewSpec:
        """Two views of different kinds."""
        return in_one_pass(self.image_size, first=self.config.first, second=self.config.second)

    def embed(self, batch: Batch) -> Rows:
        """The expander's output for both views, from one pass."""
        first, second = self.head(self.encode(torch.cat(batch.views))).chunk(2)
        return {"first": first, "second": second}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}, its three terms; and how alike views of one image and of different ones are."""
        first, second = rows["first"], rows["second"]
        return {**vicreg_loss(first, second, self.config.weights), **similarities(first, second)}
