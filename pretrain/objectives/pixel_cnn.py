"""PixelCNN: conditional image generation with PixelCNN decoders (van den Oord et al. 2016, arXiv:1606.05328).

An image is read number by number, of each pixel red, then green, then blue, and the encoder, a gated PixelCNN
(``networks/pixel_cnn``), says at each what it will be: one of 256 levels, by a softmax. With x_1 ... x_n the numbers,

    L = -mean over images and i in 1..n of  log p(x_i | x_1 ... x_i-1),    bits per dimension = L / log 2

(section 2; van den Oord et al. 2016, arXiv:1601.06759, equations 1 and 2). Two convolutions of one pixel, each after a
ReLU, make the logits of the last features (table 1 there). Views are whole images or, of those that are not square, the
largest square in the middle: a random crop that is resized has other statistics.

What differs from the authors' code: it was never published, so what the papers leave open is ours, as the weights to
begin with. Nothing is said of classes; the head is a channel narrower than theirs of 1024, for three colours.

To expect: CIFAR-10, test images, 3.03 bits per dimension (table 1); by its forerunner 3.14. JPEG changes such numbers.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.lab_color import normalized
from eyespot.pretrain.networks.pixel_cnn.gated_pixel_cnn import LEVELS, GatedPixelCNN
from eyespot.pretrain.networks.pixel_cnn.masked_convolution import COLORS, LeftConv
from eyespot.pretrain.objective import About, Objective


class PixelCNN(Objective):
    """Says which level the next number of an image has."""

    picture_rows = ("the image", "each number's likeliest level, after those before", "its bits: black 0, white 8")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's head; all else is the encoder's."""

        about: ClassVar[About] = About(
            family="reconstruction",
            task="which of 256 levels the next number of an image has",
            paper="van den Oord et al.",
            year=2016,
            link="arXiv:1606.05328",
            needs="a gated PixelCNN",
            expected="CIFAR-10: 3.03 bits per dimension",
        )
        hidden_dim: Annotated[int, Ge(COLORS)] = 1023
        """Channels of the head's hidden layer: a multiple of three."""
        view: RandomView = RandomView(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)  # noqa: RUF009 - frozen
        """How the view is made."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            if left := self.hidden_dim % COLORS:
                raise UserError(
                    f"objective.hidden_dim {self.hidden_dim}: must be a multiple of {COLORS}, for red, green and blue;"
                    f" try {self.hidden_dim - left}"
                )

        def build(self, encoder: nn.Module, image_size: int) -> "PixelCNN":
            """Around a gated PixelCNN."""
            return PixelCNN(self, encoder, image_size)

    encoder: GatedPixelCNN  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        if not isinstance(encoder, GatedPixelCNN):
            raise UserError(
                f"encoder {type(encoder).__name__}: PixelCNN needs a gated PixelCNN; try gated_pixel_cnn_tiny"
            )
        self.config, self.image_size = config, image_size
        self.encoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride]
        hidden = LeftConv(encoder.num_features, config.hidden_dim, mask="B")
        nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
        self.head = nn.Sequential(nn.ReLU(), hidden, nn.ReLU(), LeftConv(config.hidden_dim, COLORS * LEVELS, mask="B"))

    def views(self) -> ViewSpec:
        """One view, in colours that can be told from its numbers."""
        return replace(sized_views(self.image_size, self.config.view), fixed=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 256 where nothing was learned; and the same in bits."""
        loss = self.surprise(batch.views[0]).mean()
        return {"loss": loss, "bits_per_dim": loss.detach() / math.log(2)}

    def surprise(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w 3"]:
        """-log p of each number, after those before it."""
        levels = self.encoder.levels(images)
        answers = levels.permute(0, 2, 3, 1)
        logits = self.logits(levels)
        return F.cross_entropy(logits.flatten(0, 3), answers.flatten(), reduction="none").view(answers.shape)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h w"]:
        """What is known of each pixel."""
        assert isinstance(encoder, GatedPixelCNN)
        return encoder.last(encoder.levels(images))

    def logits(self, levels: Int[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w 3 k"]:
        """For each number, what it would be after those before it; in fp32 or better."""
        logits = self.head(self.encoder.last(levels)).unflatten(1, (COLORS, LEVELS)).permute(0, 3, 4, 1, 2)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """A few images, what would have been the likeliest of each of their numbers, and how much each one told."""
        images = batch.views[0][:NUM_PICTURED]
        levels = self.encoder.levels(images)
        likeliest = self.logits(levels).argmax(4) / (LEVELS - 1)
        bits = self.surprise(images) / math.log(LEVELS)
        told = (row.permute(0, 3, 1, 2).clamp(0, 1) for row in (likeliest, bits))
        return torch.stack([images.float(), *(normalized(row.float()) for row in told)])
