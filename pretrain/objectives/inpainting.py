"""Context encoder: feature learning by inpainting (Pathak et al. 2016, arXiv:1604.07379).

Loss (equations 1 to 3): an image x whose hole is filled with the mean colour goes through encoder and decoder, which
predict the region R: the hole and the pixels within an overlap of it, which were visible and count ten times, so that
the filling continues its surroundings:

    L_rec = mean over R and channels of w (x - decoder(encoder(x with hole)))^2,   w = 1 in the hole, 10 around it,
    L = (1 - a) L_rec + a L_adv,

averaged over the batch; L_adv is a discriminator's verdict on what was made, against real images. It sees the
predicted square alone, and not what surrounds it; with holes in several places, the whole decoded image.
The value that is minimised is (1 - a) L_rec plus the discriminator's own loss; see ``adversary`` for whose gradient
goes where.

What differs from the authors' code: one step moves both players, where theirs alternate, and at the same rate, where
theirs gives the discriminator a tenth; the decoder is convolutional from the feature map on, without their
channel-wise fully connected layer; colours are normalised instead of brought to -1..1 by a tanh; the discriminator
has no batch norm. Of the paper's three kinds of holes the shapes cut from other images are left out.

To expect: AlexNet on PASCAL VOC 2007: 56.5 % classification, 44.5 mAP detection, trained without the adversarial loss,
with which it did not converge (table 2; from memory).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.discriminator import Discriminator, play
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.image_decoder import ImageDecoder, grid_of
from eyespot.pretrain.objective import About, Objective, one_sized

BORDER_WEIGHT = 10.0
NUM_BLOCKS = 4
"""Squares of a quarter of the side: together at most a quarter of the image."""


class Inpainting(Objective):
    """Fills the hole in an image."""

    picture_rows = ("with a hole", "filled", "whole")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's centre region, and its weights of the losses."""

        about: ClassVar = About(
            family="reconstruction",
            task="what a hole in the image hides",
            paper="Pathak et al.",
            year=2016,
            link="arXiv:1604.07379",
            expected="AlexNet, PASCAL VOC 2007 classification: 56.5 %",
        )

        region: Literal["centre", "blocks"] = "centre"
        """What is predicted: the centre square of half the side, or four smaller squares anywhere."""
        adversarial: Annotated[float, Ge(0), Lt(1)] = 0.001
        """Weight of the adversarial loss; that of the reconstruction is 1 minus it. 0 = no discriminator."""
        hidden_dim: Annotated[int, Ge(1)] = 128
        """Channels of the decoder at the feature map's resolution."""
        discriminator_dim: Annotated[int, Ge(1)] = 64
        """Channels of the discriminator's first layer."""
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the whole image is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "Inpainting":
            """A context encoder around any encoder."""
            return Inpainting(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.margin, self.overlap = image_size // 4, max(1, round(image_size / 32))  # theirs: 7 pixels of 227
        if image_size < 8:
            raise UserError(f"encoder.image_size {image_size}: inpainting needs 8 pixels or more")
        width, grid = cast(Any, encoder).num_features, grid_of(encoder, image_size)
        self.decoder = ImageDecoder(width, grid, image_size, 3, config.hidden_dim)
        judged = image_size - 2 * self.margin if config.region == "centre" else image_size
        self.discriminator = Discriminator(judged, config.discriminator_dim) if config.adversarial else None

    def views(self) -> ViewSpec:
        """One view."""
        return one_sized(self.config.view, self.image_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}, and its parts: the error in the region, and what discriminator and maker lose."""
        images, holes = batch.views[0], self.holes(batch)
        decoded = self.decode(images, holes)
        error = self.error(decoded, images, holes)
        if self.discriminator is None:
            return {"loss": error}
        game = play(self.discriminator, self.judged(images), self.judged(decoded), self.config.adversarial)
        loss = (1 - self.config.adversarial) * error + game["discriminator"]
        return {"loss": loss, "error": error, **game}

    def holes(self, batch: Batch) -> Bool[Tensor, "b 1 s s"]:
        """Which pixels the encoder does not see."""
        images, size = batch.views[0], self.image_size
        place = torch.arange(size, device=images.device)
        if self.config.region == "centre":
            inside = (place >= self.margin + self.overlap) & (place < size - self.margin - self.overlap)
            return (inside[:, None] & inside).expand(len(images), 1, -1, -1)
        corners = (batch.uniforms("inpainting", 2 * NUM_BLOCKS) * (size - self.margin + 1)).long()
        begin = corners.view(-1, NUM_BLOCKS, 2, 1)
        rows, columns = ((place >= begin) & (place < begin + self.margin)).unbind(2)
        return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def decode(self, images: Float[Tensor, "b 3 s s"], holes: Bool[Tensor, "b 1 s s"]) -> Float[Tensor, "b 3 s s"]:
        """What is made of the images with holes, in fp32 or better: everywhere, also where they are none."""
        seen = images.masked_fill(holes, 0.0)
        decoded = self.decoder(self.read(self.encoder, seen))
        return decoded.to(torch.promote_types(decoded.dtype, torch.float32))

    def error(
        self, decoded: Float[Tensor, "b 3 s s"], images: Float[Tensor, "b 3 s s"], holes: Bool[Tensor, "b 1 s s"]
    ) -> Float[Tensor, ""]:
        """Weighted squared error in the region."""
        hole = holes.to(decoded.dtype)
        region = F.max_pool2d(hole, 2 * self.overlap + 1, stride=1, padding=self.overlap)
        weight = hole + BORDER_WEIGHT * (region - hole)
        each = (weight * (decoded - images).square()).mean(1).sum((1, 2)) / region.sum((1, 2, 3))
        return each.mean()

    def judged(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 t t"]:
        """What the discriminator sees of them."""
        if self.config.region == "blocks":
            return images
        inside = slice(self.margin, self.image_size - self.margin)
        return images[:, :, inside, inside]

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """For a few images: with the hole, with what was made in its place, and whole."""
        images, holes = batch.views[0][:NUM_PICTURED], self.holes(batch)[:NUM_PICTURED]
        filled = torch.where(holes, self.decode(images, holes), images)
        return torch.stack([images.masked_fill(holes, 0.0), filled, images]).float()
