"""MoCo v3: an empirical study of training self-supervised vision transformers (Chen et al. 2021, arXiv:2104.02057).

Loss (equation 1 and algorithm 1): with q_1, q_2 the student's outputs (encoder, projector, predictor) for the two views
and k_1, k_2 the teacher's (encoder, projector), vectors normalised, averaged over the batch,

    L = l(q_1, k_2) + l(q_2, k_1),    l(q, k) = -2 T log  exp(q . k / T) / sum over the batch of exp(q . k_i / T).

There is no queue: the negatives are the other keys of the same step, of all ranks. The teacher's weights follow the
student's after each step, with a momentum that rises to 1 along a cosine. A vision transformer keeps fixed sine-cosine
positions and, for stability, the random patch projection that it starts with (section 4.2).

What differs from the authors' code: an image that a batch holds twice is no negative of itself; the last layer of the
ResNet's predictor has a bias; the halves of the position embedding's channels stand the other way round; timm's ViT-S
has 6 heads of 64 channels, theirs 12 of 32. As theirs, the two views go through the encoder in a pass each, so batch
norm's statistics are those of one view.

To expect on ImageNet-1k, linear probe, 300 epochs: ResNet-50 72.8 %, ViT-S/16 73.2 %, ViT-B/16 76.7 %
(README of the authors' repository).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from timm.models import VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.contrastive import moco_v3_loss
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.networks.ema_teacher import cosine_momentum, follow, make_teacher
from eyespot.pretrain.networks.encoders import feature_width, features
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.networks.positions import fix_positions
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken

_VIEW = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_probability=0.8, grayscale=0.2)


class MoCoV3(Contrastive):
    """Each view's prediction finds the key that a slow copy of the encoder makes of the other, among the batch's."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The authors' settings for vision transformers; ResNets: see the recipe."""

        about: ClassVar = About(
            family="contrast",
            task="which key of the batch, made by a slow copy, belongs to a view",
            paper="Chen et al.",
            year=2021,
            link="arXiv:2104.02057",
            needs="large batches",
            expected="ViT-B/16, ImageNet-1k, 300 epochs, linear: 76.7 %",
        )

        hidden_dim: Annotated[int, Ge(1)] = 4096
        """Width of the hidden layers of projector and predictor."""
        out_dim: Annotated[int, Ge(1)] = 256
        """Width of their output."""
        projector_layers: Annotated[int, Ge(1), Le(1000)] = 3
        """Linear layers of the projector: 3 for transformers, 2 for ResNets."""
        predictor_norm: bool = True
        """Batch norm without scale and shift after the predictor, as after the projector; not for ResNets."""
        freeze_patches: bool = True
        """The patch projection stays as it was drawn. Vision transformers only."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.99
        """Share of its own weights that the teacher keeps at the first step, 0..1; it rises to 1."""
        temperature: Annotated[float, Gt(0)] = 0.2
        """What similarities are divided by."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How the first view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the second view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "MoCoV3":
            """MoCo v3 around any encoder."""
            return MoCoV3(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One image alone has no negatives."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: MoCo v3 compares images, so it needs 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        if isinstance(encoder, VisionTransformer):
            _initialise(encoder, config.freeze_patches)
        elif config.freeze_patches:
            raise UserError(
                f"objective.freeze_patches True: {type(encoder).__name__} is no vision transformer; set it to False"
            )
        hidden = [config.hidden_dim] * (config.projector_layers - 1)
        self.projector = mlp(feature_width(encoder), *hidden, config.out_dim, batch_norm=True, last_norm=True)
        self.predictor = mlp(
            config.out_dim, config.hidden_dim, config.out_dim, batch_norm=True, last_norm=config.predictor_norm
        )
        self.teacher_encoder, self.teacher_projector = make_teacher(encoder), make_teacher(self.projector)

    def views(self) -> ViewSpec:
        """Two views of different kinds."""
        return sized_views(self.image_size, self.config.first, self.config.second)

    def embed(self, batch: Batch) -> Rows:
        """The student's predictions for both views."""
        first, second = (self.predictor(self.projector(self.encode(view))) for view in batch.views)
        return {"first": first, "second": second}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Rows:
        """The teacher's keys of both views; sample ids: the same image twice in a batch is no negative."""
        first, second = (self.teacher_projector(features(self.teacher_encoder, view)) for view in batch.views)
        return {"first_keys": first, "second_keys": second, "ids": batch.ids_on_device()}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: both directions; 4 T log(batch size) where nothing was learned."""
        temperature, ids = self.config.temperature, rows["ids"]
        loss = moco_v3_loss(rows["first"], rows["second_keys"], temperature, ids=ids)
        loss = loss + moco_v3_loss(rows["second"], rows["first_keys"], temperature, ids=ids)
        return {"loss": 2 * temperature * loss, **similarities(rows["first"], rows["second_keys"])}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows."""
        momentum = cosine_momentum(self.config.momentum, progress)
        follow(self.teacher_encoder, self.encoder, momentum, taken)
        follow(self.teacher_projector, self.projector, momentum, taken)


def _initialise(vit: VisionTransformer, freeze_patches: bool) -> None:
    """The authors' initialisation: Xavier-uniform matrices (Q, K and V one by one), fixed positions."""
    vit.init_weights("moco")
    projection = vit.patch_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    projection.requires_grad_(not freeze_patches)
    fix_positions(vit, "MoCo v3")
