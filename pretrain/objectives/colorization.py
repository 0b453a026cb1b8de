"""Colorful image colorization (Zhang et al. 2016, arXiv:1603.08511).

The encoder sees an image's lightness L alone and a decoder says for every fourth pixel which colour it has: a
distribution over bins of the ab plane. With z_q the shares of the true colour in its five nearest bins, and w the
weight of the nearest of them (equations 2 to 4; ``lab.ColorNames``),

    L = -mean over images and pixels of  w  sum over bins q of  z_q log softmax(decoder(encoder(L)))_q,
    w  proportional to  1 / (p / 2 + 1 / (2 Q)),  of mean 1,  p the smoothed share of the bin among all pixels.

The pictures show the annealed mean of each pixel's distribution, T = 0.38 (equation 5), and the lightness as it was.

What differs from the authors' code:
- p is counted in the run's own images as they come by, with one pixel of each bin to begin with; theirs was counted
  over ImageNet beforehand. The bins are 309 in place of 313 (``lab.bins``).
- The encoder gets its gray image as three equal channels, so it stays a plain timm encoder that takes any image. Its
  first convolution starts with the same weights for all three: it begins blind to colour and hardly learns to see it,
  so that evaluation and releases, which show it images in colour, judge what it makes of their lightness, as the paper
  does.
- Any encoder, and a decoder with group norm behind it; theirs is a VGG-like network with dilated convolutions.

To expect (from memory): AlexNet on ImageNet-1k, linear classifiers on conv1 to conv5: 12.5, 24.5, 30.4, 31.5, 30.3 %.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.lab_color import (
    ColorNames,
    make_colorblind,
    normalized,
    pixels,
    thinned,
    to_gray,
    to_lab,
    to_rgb,
)
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.image_decoder import ImageDecoder, grid_of
from eyespot.pretrain.objective import About, Objective
from eyespot.pretrain.skipped_step import Taken

PIXELS_PER_COLOR = 4
"""Colours are predicted for a grid as many times coarser than the image."""


class Colorization(Objective):
    """Gives a gray image its colours."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's method."""

        about: ClassVar[About] = About(
            family="reconstruction",
            task="which colours a gray image had",
            paper="Zhang et al.",
            year=2016,
            link="arXiv:1603.08511",
            needs="images in colour",
            expected="AlexNet, ImageNet-1k, linear on conv4: 31.5 %",
        )
        balance: Annotated[float, Ge(0), Le(1)] = 0.5
        """How far rare colours count more: 0 = in inverse proportion to their share, 1 = not at all."""
        temperature: Annotated[float, Gt(0)] = 0.38
        """Of the annealed mean in the pictures."""
        hidden_dim: Annotated[int, Ge(1)] = 256
        """Channels of the decoder at the feature map's resolution."""
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the view is made; its colours are what is to be found out, so it should not change them."""

        def build(self, encoder: nn.Module, image_size: int) -> "Colorization":
            """Around any encoder with a feature map."""
            return Colorization(self, encoder, image_size)

    picture_rows: ClassVar[tuple[str, ...]] = ("what the encoder sees", "the colours it gives", "the image")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        make_colorblind(encoder)
        self.names = ColorNames()
        self.out_size = max(1, image_size // PIXELS_PER_COLOR)
        self.decoder = ImageDecoder(
            encoder.num_features,  # pyright: ignore[reportArgumentType]
            grid_of(encoder, image_size),
            image_size,
            len(self.names),
            config.hidden_dim,
            self.out_size,
        )

    def views(self) -> ViewSpec:
        """One view, in colours that can be told from its numbers."""
        return replace(sized_views(self.image_size, self.config.view), fixed=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 309 where nothing was learned; and the share of pixels whose nearest bin is named right."""
        lab = to_lab(pixels(batch.views[0]))
        logits = self.logits(lab[:, :1])
        places, shares = self.names.encode(thinned(lab[:, 1:], self.out_size))
        nearest = places[:, 0]
        if self.in_step:
            self.names.wait(nearest)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).permute(0, 2, 3, 1).flatten(0, 2)
        losses = -(shares * logits.log_softmax(1).gather(1, places)).sum(1)
        loss = (self.names.weights(self.config.balance)[nearest] * losses).mean()
        return {"loss": loss, "accuracy": (logits.argmax(1) == nearest).float().mean()}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def logits(self, lightness: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b q s s"]:
        """What the decoder makes of images of this lightness, as gray ones."""
        return self.decoder(self.read(self.encoder, normalized(to_gray(lightness))))

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The step's colours are counted."""
        self.names.count(taken)

    def after_skip(self) -> None:
        """Colours of a step that was not taken do not count."""
        self.names.forget()

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """The gray images, the same with the colours that are predicted, and the originals."""
        images = batch.views[0][:NUM_PICTURED].float()
        lightness = to_lab(pixels(images))[:, :1]
        ab = self.names.mean(self.logits(lightness).float(), self.config.temperature)
        ab = F.interpolate(ab, lightness.shape[2:], mode="bilinear")
        given = normalized(to_rgb(torch.cat([lightness, ab], dim=1)))
        return torch.stack([normalized(to_gray(lightness)), given, images])
