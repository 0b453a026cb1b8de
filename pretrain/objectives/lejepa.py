"""LeJEPA: a joint-embedding predictive architecture without teacher (Balestriero & LeCun 2025, arXiv:2511.08544).

Loss (section 5, algorithm 2): of each image some large views and small ones; z_v is what encoder and head make of view
v, and c the mean of z over an image's large views. All z lie close to c, and SIGReg (section 4, algorithm 1) wants z to
be spread over the batch as a standard normal distribution is, seen from M directions a that are drawn anew each step:

    L = (1 - weight) * mean over images, views and channels of (z_v - c)^2 + weight * mean over views and a of T_a,
    T_a = N * integral from -5 to 5 of |mean over the batch of exp(i t a . z_v) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

with N the images of a batch, over all ranks and micro-batches, and 17 knots of the trapezoidal rule. No gradient is
stopped, nothing follows anything.

What differs from the authors' code: their package integrates from -3 to 3, with 33 knots, and their minimal example
draws 256 directions; this is the paper's algorithm. Directions are a function of the run's seed and the number of steps
taken, so they are the same on all ranks, and after a resumption.

To expect: ViT-H/14 on ImageNet-1k: 79 % linear probe (abstract).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.losses.sigreg import random_directions, sigreg_loss
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.networks.multi_crop import CROP_ROWS, accept_crops, encode_crops, pictured_crops
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken, if_taken

_VIEW = RandomView(jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, blur=0.5, solarize=0.2)


class LeJEPA(Contrastive):
    """Close outputs for the views of an image, spread over the batch as a normal distribution."""

    picture_rows = CROP_ROWS
    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """What the authors' README recommends; the widths of the head are their minimal example's."""

        about: ClassVar = About(
            family="joint embedding",
            task="close outputs for views, spread as a normal distribution is",
            paper="Balestriero & LeCun",
            year=2025,
            link="arXiv:2511.08544",
            expected="ViT-H/14, ImageNet-1k, linear: 79 %",
        )

        weight: Annotated[float, Gt(0), Lt(1)] = 0.05
        """Share of SIGReg in the loss, the paper's lambda."""
        num_directions: Annotated[int, Ge(1)] = 1024
        """From how many directions a step looks at the outputs."""
        num_large: Annotated[int, Ge(2), Le(64)] = 2
        """Large views of each image, whose mean all views are to lie at."""
        num_small: Annotated[int, Ge(0), Le(64)] = 6
        """Small views of each image."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's two hidden layers."""
        out_dim: Annotated[int, Ge(1)] = 128
        """Width of its output."""
        large: RandomView = replace(_VIEW, scale=(0.3, 1.0))  # noqa: RUF009 - frozen
        """How the large views are made."""
        small: RandomView = replace(_VIEW, size=98, scale=(0.05, 0.3))  # noqa: RUF009 - frozen
        """How the small views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "LeJEPA":
            """LeJEPA around any encoder; with small views, around one that can see views of two sizes."""
            return LeJEPA(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """A distribution needs samples."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: LeJEPA judges a distribution, so it needs 2 or more")

    seed: Int[Tensor, ""]
    """What directions are drawn by, beside ``steps``."""
    steps: Int[Tensor, ""]
    """That were taken."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        accept_crops(encoder, config.num_small, config.small)
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), *[config.hidden_dim] * 2, config.out_dim, batch_norm=True)
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def views(self) -> ViewSpec:
        """The large views, then the small ones."""
        config = self.config
        return sized_views(self.image_size, *[config.large] * config.num_large, *[config.small] * config.num_small)

    def embed(self, batch: Batch) -> Rows:
        """The head's output for all views of a sample."""
        found = encode_crops(self.encoder, batch.views)
        return {"views": self.head(found.flatten(0, 1)).unflatten(0, found.shape[:2]).transpose(0, 1)}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}; its terms "invariance" and "sigreg"; and how alike views of one image and of different ones are."""
        views = rows["views"].to(torch.promote_types(rows["views"].dtype, torch.float32))
        invariance = (views - views[:, : self.config.num_large].mean(1, keepdim=True)).square().mean()
        directions = random_directions(self.seed, self.steps, views.shape[2], self.config.num_directions)
        sigreg = sigreg_loss(views, directions)
        loss = (1 - self.config.weight) * invariance + self.config.weight * sigreg
        return {"loss": loss, "invariance": invariance, "sigreg": sigreg, **similarities(views[:, 0], views[:, 1])}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The next step has other directions."""
        self.steps.copy_(if_taken(taken, self.steps + 1, self.steps))

    def picture(self, batch: Batch) -> Float[Tensor, "rows columns c h w"]:
        """The views, large and small, of a few images."""
        return pictured_crops(batch.views)
