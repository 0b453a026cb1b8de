"""RotNet: unsupervised representation learning by predicting image rotations (Gidaris et al. 2018, arXiv:1803.07728).

Loss (equations 2 and 3): all four rotations g(x | k), k quarter turns, of each image go through the encoder, and a
linear layer names k:

    L = -1/4 sum over k in 0..3 of log softmax(head(encoder(g(x | k))))_k,

averaged over the batch. A quarter turn of a square moves pixels and makes none, so nothing but the content tells it;
the crop comes before the turn, and all four turns of one image look the same at their borders but for the turn.

What differs from the authors' code: features are the encoder's own pooled ones, where theirs are a layer of AlexNet or
NIN with a classifier of several layers; the view may be a random crop of varying size, theirs is of one size.

To expect: RotNet with NIN on CIFAR-10: 91.16 % with a supervised classifier on its second block's features (table 3).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.rotations import PICTURE_ROWS, TURNS, picture_of_turns, rotated
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.objective import About, Objective


class Rotation(Objective):
    """Says by how many quarter turns an image was rotated."""

    picture_rows = PICTURE_ROWS
    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's method, with a random crop in place of its fixed one."""

        about: ClassVar = About(
            family="transformation",
            task="by how many quarter turns an image was rotated",
            paper="Gidaris et al.",
            year=2018,
            link="arXiv:1803.07728",
            expected="NIN, CIFAR-10, supervised classifier on its second block: 91.2 %",
        )

        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the view is made that is then rotated."""

        def build(self, encoder: nn.Module, image_size: int) -> "Rotation":
            """RotNet around any encoder."""
            return Rotation(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = nn.Linear(feature_width(encoder), TURNS)

    def views(self) -> ViewSpec:
        """One view."""
        return sized_views(self.image_size, self.config.view)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 4 where nothing was learned; and the share of turns that are named right."""
        images, turns = rotated(batch.views[0])
        logits = self.head(self.encode(images))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, turns)
        self.note_losses(lambda: F.cross_entropy(logits, turns, reduction="none").view(-1, len(batch)).T)
        return {"loss": loss, "accuracy": (logits.argmax(1) == turns).float().mean()}

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """A few images: turned, turned back by what the classifier says, and upright."""
        images = batch.views[0][:NUM_PICTURED]
        return picture_of_turns(images, lambda turned: self.head(self.encode(turned)).argmax(1))
