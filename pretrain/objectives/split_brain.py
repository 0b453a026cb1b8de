"""Split-brain autoencoders (Zhang et al. 2017, arXiv:1611.09842).

An image is cut into lightness L and colours ab, and the encoder into two halves (``split_encoder``): one sees L and
says which colours belong to it, the other sees ab and says how light it is; both for every fourth pixel, as a choice
among bins. With q the bin nearest to the true colour and l the true lightness's, of 100 (section 3.1, "cl, cl"),

    L = -mean over images and pixels of  log softmax(decode(half(L)))_q + log softmax(decode'(half'(ab)))_l.

Features are those of both halves side by side, so together they have seen the whole image.

What differs from the authors' code: each half is a whole encoder and not half of one in width; a decoder with group
norm stands behind it, where theirs is the rest of a fully convolutional AlexNet; the bins of colours are 309 in place
of 313 (``lab.bins``). As with theirs, no colour counts more than another.

To expect (from memory): AlexNet on ImageNet-1k, linear classifiers on conv1 to conv5: 17.7, 29.3, 35.4, 35.2, 32.8 %.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.lab_color import ColorNames, normalized, pixels, thinned, to_gray, to_lab, to_rgb
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.image_decoder import ImageDecoder, grid_of
from eyespot.pretrain.networks.split_encoder import MEAN_LIGHTNESS, SplitEncoder
from eyespot.pretrain.objective import About, Objective, one_sized

PIXELS_PER_BIN = 4
"""Bins are named for a grid as many times coarser than the image."""
NUM_LEVELS = 100
"""Of lightness."""
TEMPERATURE = 0.38
"""Of the annealed mean in the pictures (Zhang et al. 2016, section 2.3)."""


class SplitBrain(Objective):
    """Lightness from colours, and colours from lightness."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's method."""

        about: ClassVar[About] = About(
            family="reconstruction",
            task="an image's colours from its lightness, and its lightness from its colours",
            paper="Zhang et al.",
            year=2017,
            link="arXiv:1611.09842",
            needs="images in colour, an encoder in two halves",
            expected="AlexNet, ImageNet-1k, linear on conv3: 35.4 %",
        )
        hidden_dim: Annotated[int, Ge(1)] = 256
        """Channels of each decoder at the feature map's resolution."""
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the view is made; its colours are what is to be found out, so it should not change them."""

        def build(self, encoder: nn.Module, image_size: int) -> "SplitBrain":
            """Around an encoder in two halves."""
            return SplitBrain(self, encoder, image_size)

    picture_rows: ClassVar[tuple[str, ...]] = (
        "lightness, as one half sees it",
        "the colours it gives",
        "colours, as the other half sees them",
        "the lightness it gives",
        "the image",
    )

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        if not isinstance(encoder, SplitEncoder):
            raise UserError(
                f"encoder {type(encoder).__name__}: split_brain needs one in two halves; try split_resnet18"
            )
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.names = ColorNames()
        self.out_size = max(1, image_size // PIXELS_PER_BIN)
        width, grid = encoder.num_features // 2, grid_of(encoder, image_size)
        self.to_colors, self.to_lightness = (
            ImageDecoder(width, grid, image_size, num_bins, config.hidden_dim, self.out_size)
            for num_bins in (len(self.names), NUM_LEVELS)
        )

    def views(self) -> ViewSpec:
        """One view, in colours that can be told from its numbers."""
        return replace(one_sized(self.config.view, self.image_size), fixed=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 309 + log 100 where nothing was learned; and its two parts."""
        lab = thinned(to_lab(pixels(batch.views[0])), self.out_size)
        levels = (lab[:, 0] * (NUM_LEVELS / 100)).long().clamp(0, NUM_LEVELS - 1)
        names = self.names.encode(lab[:, 1:])[0][:, 0]
        of_colors, of_lightness = (
            F.cross_entropy(logits.permute(0, 2, 3, 1).flatten(0, 2), bins)
            for logits, bins in zip(self.logits(batch.views[0]), (names, levels), strict=True)
        )
        return {"loss": of_colors + of_lightness, "loss_colors": of_colors, "loss_lightness": of_lightness}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def logits(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b colors s s"], Float[Tensor, "b levels s s"]]:
        """What is said of the colours, and of the lightness; in fp32 or better."""
        maps = self.read(self.encoder, images).chunk(2, dim=1)
        said = self.to_colors(maps[0]), self.to_lightness(maps[1])
        exact = torch.promote_types(said[0].dtype, torch.float32)
        return said[0].to(exact), said[1].to(exact)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "5 n 3 h w"]:
        """What each half sees and what it adds, and the images."""
        images = batch.views[0][:NUM_PICTURED].float()
        lab = to_lab(pixels(images))
        lightness, ab = lab[:, :1], lab[:, 1:]
        of_colors, of_lightness = self.logits(images)
        levels = (torch.arange(NUM_LEVELS, device=lab.device) + 0.5) * (100 / NUM_LEVELS)
        guessed = torch.einsum("bqhw,q->bhw", (of_lightness / TEMPERATURE).softmax(1).float(), levels)[:, None]
        colors, guessed = (
            F.interpolate(found.float(), images.shape[2:], mode="bilinear")
            for found in (self.names.mean(of_colors, TEMPERATURE), guessed)
        )
        flat = torch.full_like(lightness, MEAN_LIGHTNESS)
        given = [to_rgb(torch.cat(pair, dim=1)) for pair in ((lightness, colors), (flat, ab), (guessed, ab))]
        return torch.stack([normalized(row) for row in (to_gray(lightness), *given)] + [images])
