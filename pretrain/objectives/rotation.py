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
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.batch import Batch
from eyespot.data_pipeline.views import RandomView, ViewSpec, sized_views
from eyespot.pretrain.about import About
from eyespot.pretrain.objective import NUM_PICTURED, Objective

TURNS = 4


class Rotation(Objective):
    """Says by how many quarter turns an image was rotated."""

    picture_rows = ("turned", "turned back as the classifier says", "as it was")

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
        self.head = nn.Linear(cast(Any, encoder).num_features, TURNS)

    def views(self) -> ViewSpec:
        """One view."""
        return sized_views(self.image_size, self.config.view)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 4 where nothing was learned; and the share of turns that are named right."""
        images, turns = rotated(batch.views[0])
        logits = self.head(self.encode(images))
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), turns)
        return {"loss": loss, "accuracy": (logits.argmax(1) == turns).float().mean()}

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """A few images, the n-th by n quarters: turned, turned back by what the classifier says, and upright."""
        images = batch.views[0][:NUM_PICTURED]
        turned = torch.stack([torch.rot90(image, turns % TURNS, (1, 2)) for turns, image in enumerate(images)])
        guesses = self.head(self.encode(turned)).argmax(1).tolist()
        righted = torch.stack(
            [torch.rot90(image, -turns, (1, 2)) for turns, image in zip(guesses, turned, strict=True)]
        )
        return torch.stack([turned, righted, images]).float()


def rotated(images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "4*b 3 h w"], Int[Tensor, " 4*b"]]:
    """All images turned by 0, 1, 2 and 3 quarters counterclockwise, and by how many."""
    turned = torch.cat([torch.rot90(images, turns, (2, 3)) for turns in range(TURNS)])
    return turned, torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
