"""Alignment and uniformity: contrastive learning, understood on the hypersphere (Wang & Isola 2020, arXiv:2005.10242).

What a contrastive loss does in the limit of many negatives, asked for itself: two views of an image lie together, and
images lie evenly over the sphere. With x_i and y_i the normalised head outputs of the two views of image i, and w the
weights (section 4.2 and figure 5),

    L = w_a mean_i |x_i - y_i|^alpha + w_u (U(x) + U(y)) / 2,   U(z) = log mean_{i != j} exp(-t |z_i - z_j|^2).

The pairs i, j are all of the batch, over all ranks.

What differs from the authors' code: two rows of one image that a batch holds twice are no pair. On STL-10 their network
is a small AlexNet whose last layer is the output, and its layer before that is kept: here a head of two layers stands
on the encoder, as in their experiment on ImageNet. That one was made of MoCo's code: one view's rows come from its
moving-average teacher, and U compares with its queue of 65,536 and the batch (equation 18); here there is no such
teacher and no queue. Views are MoCo v2's and the rate falls by a cosine; their script for STL-10 (a copy by others)
jitters always, the hue by up to 0.4, never blurs, and lowers the rate to a tenth after 155, 170 and 185 of 200 epochs.

To expect: AlexNet variant on STL-10, linear on its penultimate layer: 83.2 % (the authors' code). ResNet-50 on ImageNet
with w_a = 3, t = 3, teacher and queue, 200 epochs: 67.7 % linear probe, where MoCo v2 has 67.5 (table 5; from memory).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.contrastive import uniformity_loss
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About


class AlignUniform(Contrastive):
    """Two views of an image lie together, and all images evenly over the sphere."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The numbers of the authors' code for STL-10; views as MoCo v2's."""

        about: ClassVar = About(
            family="contrast",
            task="close outputs for two views, evenly spread over the sphere",
            paper="Wang & Isola",
            year=2020,
            link="arXiv:2005.10242",
            needs="large batches",
            expected="AlexNet variant, STL-10, linear: 83.2 %",
        )

        alignment_weight: Annotated[float, Ge(0)] = 1.0
        """What the alignment is multiplied by."""
        uniformity_weight: Annotated[float, Ge(0)] = 1.0
        """What the uniformity is multiplied by."""
        alpha: Annotated[float, Ge(1)] = 2.0
        """Power of the distance of two views; below 1 its gradient would have no bound."""
        t: Annotated[float, Gt(0), Le(20)] = 2.0
        """How sharply images push each other away; larger = near ones only."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's hidden layer."""
        out_dim: Annotated[int, Ge(2)] = 128
        """Width of the head's output; the sphere has one dimension less."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur=0.5
        )
        """How both views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "AlignUniform":
            """Around any encoder."""
            return AlignUniform(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One image alone covers nothing evenly."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: uniformity compares images, so it needs 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), config.hidden_dim, config.out_dim)

    def views(self) -> ViewSpec:
        """Two views of the same kind."""
        return sized_views(self.image_size, self.config.view, self.config.view)

    def embed(self, batch: Batch) -> Rows:
        """The head's output for both views, from one pass."""
        first, second = self.head(self.encode(torch.cat(batch.views))).chunk(2)
        return {"first": first, "second": second}

    def targets(self, batch: Batch) -> Rows:
        """Sample ids: the same image twice in a batch is no pair."""
        return {"ids": batch.ids_on_device()}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"} and its two terms without weights; and how alike views of one image and of different ones are."""
        config, views = self.config, [rows["first"], rows["second"]]
        aligned = distance(*views).pow(config.alpha).mean()
        uniform = torch.stack([uniformity_loss(view, config.t, ids=rows["ids"]) for view in views]).mean()
        loss = config.alignment_weight * aligned + config.uniformity_weight * uniform
        return {"loss": loss, "alignment": aligned, "uniformity": uniform, **similarities(*views)}


def distance(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Between the rows' places on the sphere, 0..2, in fp32 or better."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = (F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1) for rows in (x, y))
        return (x - y).norm(dim=1)
