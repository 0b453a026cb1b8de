"""SimSiam: exploring simple siamese representation learning (Chen & He 2020, arXiv:2011.10566).

Loss (equations 1 to 4): with p the prediction from one view and z the projection of the other, which takes no
gradient,

    L = -cos(p_1, z_2) / 2 - cos(p_2, z_1) / 2,

averaged over the batch. No negatives, no teacher: stopping the gradient is what keeps it from collapsing.

What differs from the authors' code: the predictor's learning rate falls along the cosine like all others, theirs stays
(their baseline does as ours: 67.7 % against 68.1 %, section 4.2); the projector's last layer, before a batch norm, has
no bias. As theirs, each view goes through the encoder in a pass of its own.

To expect: ResNet-50 on ImageNet-1k, 100 epochs: 68.1 % linear probe (table 4).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, Objective


class SimSiam(Objective):
    """Predicts, from one view, what the same network makes of the other."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's defaults (section 3)."""

        about: ClassVar = About(
            family="joint embedding",
            task="what the same encoder makes of another view",
            paper="Chen & He",
            year=2020,
            link="arXiv:2011.10566",
            expected="ResNet-50, ImageNet-1k, 100 epochs, linear: 68.1 %",
        )

        dim: Annotated[int, Ge(1)] = 2048
        """Width of the three layers of the projector, and of the predictor's output."""
        bottleneck: Annotated[int, Ge(1)] = 512
        """Width of the predictor's hidden layer."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur=0.5
        )
        """How both views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "SimSiam":
            """SimSiam around any encoder."""
            return SimSiam(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """A batch norm needs company."""
            if batch_size < 2:
                raise UserError(
                    f"data.batch_size {batch_size}: SimSiam's heads have batch norms, so it needs 2 or more"
                )

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        width = feature_width(encoder)
        self.projector = mlp(width, *[config.dim] * 3, batch_norm=True, last_norm=True)
        self.predictor = mlp(config.dim, config.bottleneck, config.dim, batch_norm=True)

    def views(self) -> ViewSpec:
        """Two views of the same kind."""
        return sized_views(self.image_size, self.config.view, self.config.view)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: -1 where all predictions are right; and how far the projections are spread.

        Returns:
            "spread": the mean standard deviation of the normalised projections over the batch, times the square root
            of their width: 1 = even on the sphere, 0 = collapsed (figure 2).
        """
        projected = [self.projector(self.encode(view)) for view in batch.views]
        first, second = (self.predictor(rows) for rows in projected)
        loss = -(_cosines(first, projected[1].detach()) + _cosines(second, projected[0].detach())).mean() / 2
        with torch.no_grad():
            unit = F.normalize(projected[0].float(), dim=1)
            spread = unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5
        return {"loss": loss, "spread": spread}


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.cosine_similarity(x.to(wide), y.to(wide), dim=1)
