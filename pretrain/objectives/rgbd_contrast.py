"""CMC of images and depth: contrastive multiview coding (Tian et al. 2019, arXiv:1906.05849).

Loss (sections 3.1 and 3.2): with x_i and y_i the unit vectors that two encoders make of image i and of its depth map,
and s the inverse of a temperature, over the N pairs of the batch on all ranks,

    L = -1 / 2N sum_i [ log exp(s x_i . y_i) / sum_j exp(s x_i . y_j) + log exp(s x_i . y_i) / sum_j exp(s x_j . y_i) ],

each of the two directions the cross-entropy of equation 2 with the other N - 1 samples as negatives.

Depth comes to its encoder as one channel, each map standardised by itself (``standard_depth``): whatever the files'
unit, the encoder sees how far things are compared with each other, not in metres; what was not measured is the map's
mean. Both are cut alike and flipped alike, so that the two towers see the same part of the scene.

What differs from the authors' code: negatives are the other samples of the batch, from all ranks, in place of a memory
bank; two copies of one sample are no negatives of each other; the temperature is learned from 0.07 on, which stays
theirs; s is never above 100, as in CLIP. The paper's two views of ImageNet are L and ab, and those of NYU L, ab, depth
and surface normals: here they are the image and its depth. Either tower may be any encoder; the image's is kept.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, cast

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import DepthView, RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Rows
from eyespot.pretrain.families.two_towers import TwoEncoders, make_tower
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.standard_depth import standard_depth
from eyespot.pretrain.losses.contrastive import clip_loss
from eyespot.pretrain.losses.feature_statistics import similarities_of_towers
from eyespot.pretrain.networks.towers.tower import TimmTower, Tower
from eyespot.pretrain.objective import About

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0


class RGBDContrast(TwoEncoders):
    """An image and its depth map find each other among all of a batch."""

    joint = ("image", "depth")
    largest_scale = LARGEST_SCALE
    picture_rows: ClassVar[tuple[str, ...]] = ("image", "depth, standardised")

    @dataclass(kw_only=True, slots=True)
    class Config(TwoEncoders.Config):
        """The paper's space and crops."""

        about: ClassVar = About(
            family="depth",
            task="which depth map belongs to an image, among a batch, and which image to a depth map",
            paper="Tian et al.",
            year=2019,
            link="arXiv:1906.05849",
            needs="depth maps, large batches",
        )

        out_dim: Annotated[int, Ge(2)] = 128
        """Channels of the space that both towers end in."""
        view: RandomView = RandomView()  # noqa: RUF009 - frozen
        """How images are seen; their depth maps are cut and flipped alike."""
        depth_encoder: str = "resnet50"
        """timm's name of the architecture that sees depth, of the images' size."""

        def build(self, encoder: nn.Module, image_size: int) -> "RGBDContrast":
            """CMC with any encoder as its image tower."""
            return RGBDContrast(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        size = config.view.size or image_size
        tower = make_tower(config.depth_encoder, (1, size, size), "objective.depth_encoder")
        super().__init__(config, encoder, image_size, tower, math.log(FIRST_SCALE))

    def views(self) -> ViewSpec:
        """An image and its depth map."""
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, DepthView(of=0)))

    def project(self, kind: str, view: Tensor) -> Tensor:
        """Its tower's features, projected; depth is standardised first."""
        return super().project(kind, view if kind == "image" else standard_depth(view)[0])

    def towers(self) -> dict[str, Tower]:
        """The depth tower, which sees standardised maps."""
        return {kind: replace(cast(TimmTower, each), standardized=True) for kind, each in super().towers().items()}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: symmetric InfoNCE; the scale, and how alike images are to their depth maps and to others'."""
        image, depth, scale = rows["image"], rows["depth"], rows["scale"][0]
        loss = clip_loss(image, depth, scale, ids=rows["ids"])
        return {"loss": loss, "scale": scale.detach().clone(), **similarities_of_towers(image, depth)}

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "2 n 3 h w"]:
        """Two rows: images, and their depth maps as the tower sees them."""
        images, depth = (view[:NUM_PICTURED].float() for view in batch.views)
        return torch.stack([images, standard_depth(depth)[0].expand_as(images)])
