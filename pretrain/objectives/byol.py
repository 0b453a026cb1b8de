"""BYOL: bootstrap your own latent (Grill et al. 2020, arXiv:2006.07733).

Loss (equation 2, both ways): the student's prediction q(z) of one view and the teacher's output z' of the other,

    L = |q(z_1) - z'_2|^2 + |q(z_2) - z'_1|^2 = 4 - 2 cos(q(z_1), z'_2) - 2 cos(q(z_2), z'_1),

vectors normalised, no gradient through z'; averaged over the batch. After each step the teacher's weights follow the
student's, with a momentum that rises to 1 along a cosine (section 3.1 and 3.3).

What differs from the authors' code: the teacher starts as a copy of the student, theirs from other random weights
(they saw no difference); the linear layers before a batch norm have no bias and the last ones have one, theirs the
other way round; their loss also trains a classifier on detached features, for watching only. As theirs, student and
teacher see the two views in a pass each, so batch norm's statistics are those of one view, and the teacher uses the
batch's own statistics.

To expect: ResNet-50 on ImageNet-1k, 1000 epochs: 74.3 % linear probe (table 1); 300 epochs: 72.5 % (section 5).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.networks.ema_teacher import cosine_momentum, follow, make_teacher
from eyespot.pretrain.networks.encoders import feature_width, features
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, Objective
from eyespot.pretrain.skipped_step import Taken

_VIEW = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)


class BYOL(Objective):
    """A student predicts, from one view, what its slow copy makes of the other."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's defaults (section 3.3, views from table 6)."""

        about: ClassVar = About(
            family="joint embedding",
            task="what a slow copy of the encoder makes of another view",
            paper="Grill et al.",
            year=2020,
            link="arXiv:2006.07733",
            expected="ResNet-50, ImageNet-1k, 1000 epochs, linear: 74.3 %",
        )

        momentum: Annotated[float, Ge(0), Le(1)] = 0.996
        """The teacher's momentum at the first step, 0..1; it rises to 1."""
        hidden_dim: Annotated[int, Ge(1)] = 4096
        """Width of the hidden layer of projector and predictor."""
        out_dim: Annotated[int, Ge(1)] = 256
        """Width of their output."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How the first view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the second view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "BYOL":
            """BYOL around any encoder."""
            return BYOL(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.projector = mlp(feature_width(encoder), config.hidden_dim, config.out_dim, batch_norm=True)
        self.predictor = mlp(config.out_dim, config.hidden_dim, config.out_dim, batch_norm=True)
        self.teacher_encoder, self.teacher_projector = make_teacher(encoder), make_teacher(self.projector)

    def views(self) -> ViewSpec:
        """Two views of different kinds."""
        return sized_views(self.image_size, self.config.first, self.config.second)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: 0 where all predictions are right, 8 at most; and how alike predictions and goals are."""
        first, second = (self.predictor(self.projector(self.encode(view))) for view in batch.views)
        with torch.no_grad():
            goals = [self.teacher_projector(features(self.teacher_encoder, view)) for view in batch.views]
        loss = squared_distances(first, goals[1]) + squared_distances(second, goals[0])
        self.note_losses(lambda: loss)
        return {"loss": loss.mean(), **similarities(first, goals[1])}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows."""
        momentum = cosine_momentum(self.config.momentum, progress)
        follow(self.teacher_encoder, self.encoder, momentum, taken)
        follow(self.teacher_projector, self.projector, momentum, taken)


def squared_distances(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Of the normalised rows: 2 - 2 cos(x, y), in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return 2 - 2 * (F.normalize(x.to(wide), dim=1) * F.normalize(y.to(wide), dim=1)).sum(dim=1)
