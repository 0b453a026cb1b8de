"""iGPT: generative pretraining from pixels (Chen et al. 2020, "Generative Pretraining From Pixels", ICML).

An image made small, each pixel the nearest of 512 colours, is read row by row, and the encoder, a causal transformer
(``pixel_transformer``), says at each pixel what colour comes next. With c_1 ... c_n the colours (equations 1 and 2),

    L = -mean over images and i in 1..n of  log softmax(head(transformer(start, c_1 ... c_i-1)))_{c_i}.

Features are those of the middle of the network: the mean over pixels of norm(h_l), l half the depth. The pictures show
what it makes of the lower half of images whose upper half it was given; each pixel is drawn from softmax(...).

What differs from the authors' code: norms take the mean off (theirs divides by the root of the mean square only), GELU
is exact, and the palette is our own, fitted to CIFAR-10 (``palette``; the encoder's weights hold it).

To expect (from memory): iGPT-L, trained on ImageNet at 32 x 32, linear probe: 96.3 % on CIFAR-10, 60.3 % on ImageNet.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.lab_color import normalized
from eyespot.pretrain.networks.pixel_transformer import Past, PixelTransformer
from eyespot.pretrain.objective import About, Objective


class PixelGPT(Objective):
    """Says which colour the next pixel has."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's method: all its numbers are the encoder's."""

        about: ClassVar[About] = About(
            family="reconstruction",
            task="which colour the next pixel has",
            paper="Chen et al.",
            year=2020,
            link="https://proceedings.mlr.press/v119/chen20s.html",
            needs="a pixel transformer",
            expected="iGPT-L, ImageNet-1k at 32 pixels, linear: 60.3 %",
        )
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "PixelGPT":
            """Around a pixel transformer."""
            return PixelGPT(self, encoder, image_size)

    picture_rows: ClassVar[tuple[str, ...]] = ("what it is given", "how it goes on", "another time", "the image")
    encoder: PixelTransformer  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        if not isinstance(encoder, PixelTransformer):
            raise UserError(
                f"encoder {type(encoder).__name__}: iGPT needs a pixel transformer; try pixel_transformer_small"
            )
        self.config, self.image_size = config, image_size
        self.encoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride]
        self.head = nn.Linear(encoder.num_features, len(encoder.palette), bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def views(self) -> ViewSpec:
        """One view, in colours that can be told from its numbers."""
        return replace(sized_views(self.image_size, self.config.view), fixed=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 512 where nothing was learned; and the share of pixels whose colour is named right."""
        colors = self.encoder.colors(batch.views[0])
        logits = self.logits(colors).flatten(0, 1)
        loss = F.cross_entropy(logits, colors.flatten())
        return {"loss": loss, "accuracy": (logits.argmax(1) == colors.flatten()).float().mean()}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What follows each pixel."""
        assert isinstance(encoder, PixelTransformer)
        return encoder.last(encoder.colors(images))

    def logits(self, colors: Int[Tensor, "b n"]) -> Float[Tensor, "b n k"]:
        """For each pixel, what its colour would be after those before it; in fp32 or better."""
        logits = self.head(self.encoder.last(colors))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "4 n 3 h w"]:
        """The upper half of a few images, two ways to go on, and the images as the encoder sees them."""
        colors = self.encoder.colors(batch.views[0])[:NUM_PICTURED]
        num_given = self.encoder.side * (self.encoder.side // 2)
        images = self.encoder.painted(colors)
        given = images.clone()
        given[:, :, self.encoder.side // 2 * self.encoder.patch_size :] = 0.5
        rows = [given]
        for name in ("pixel_gpt/first", "pixel_gpt/second"):
            draws = batch.uniforms(name, colors.shape[1] - num_given)[:NUM_PICTURED]
            rows.append(self.encoder.painted(self.completed(colors[:, :num_given], draws)))
        return normalized(torch.stack([*rows, images]).flatten(0, 1)).unflatten(0, (4, -1)).float()

    @torch.no_grad()
    def completed(self, colors: Int[Tensor, "b n"], draws: Float[Tensor, "b m"]) -> Int[Tensor, "b n+m"]:
        """The colours and those that follow, each drawn by a number in 0..1 from what is said of it."""
        pasts = [Past() for _ in self.encoder.blocks]
        for draw in draws.T:
            logits = self.head(self.encoder.following(colors, pasts))
            edges = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1).cumsum(1)
            chosen = torch.searchsorted(edges, draw[:, None].contiguous().to(edges.dtype), right=True)
            colors = torch.cat([colors, chosen.clamp_max(edges.shape[1] - 1)], dim=1)
        return colors
