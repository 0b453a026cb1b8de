"""Denoising autoencoder: extracting and composing robust features (Vincent et al. 2008, doi:10.1145/1390156.1390294).

Loss (section 2.3, for values that are no probabilities): an image is corrupted, x -> x~, and decoded from what the
encoder makes of it; the error is that against the clean image,

    L = mean over pixels and channels of (decoder(encoder(x~)) - x)^2,

averaged over the batch. Corruption is drawn anew for each sample and epoch: "masking" sets some pixels to the mean
colour; "salt_and_pepper" sets them to the image's own darkest or brightest value; "gaussian" adds normal noise to all
(the latter two from Vincent et al. 2010, JMLR 11, section 3.3).

What differs from the paper: it trains one fully connected layer after the other with tied weights on gray values in
0..1, by cross-entropy; here the whole encoder is trained at once on normalised colours, by the squared error that the
paper of 2010 takes for real values. A pixel is masked with a probability, where the paper masks an exact number.

To expect: three layers on MNIST with 10,000 digits to train on, fine-tuned: 2.80 % error, against 3.46 % without noise
(table 1; from memory).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.noise import normal_noise, uniform_noise
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.image_decoder import ImageDecoder, grid_of
from eyespot.pretrain.objective import About, Objective, one_sized


class Denoising(Objective):
    """Makes the clean image from a corrupted one."""

    picture_rows = ("corrupted", "decoded", "clean")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """Half of the pixels are masked."""

        about: ClassVar = About(
            family="reconstruction",
            task="the image without the noise that was added",
            paper="Vincent et al.",
            year=2008,
            link="doi:10.1145/1390156.1390294",
            expected="three layers, MNIST (10,000 digits), fine-tuned: 2.80 % error",
        )

        corruption: Literal["masking", "gaussian", "salt_and_pepper"] = "masking"
        """What is done to the image."""
        share: Annotated[float, Gt(0), Lt(1)] = 0.5
        """Probability that a pixel is overwritten; "masking" and "salt_and_pepper" only."""
        deviation: Annotated[float, Gt(0)] = 1.0
        """Standard deviation of the noise, in those of the data set; "gaussian" only."""
        hidden_dim: Annotated[int, Ge(1)] = 128
        """Channels of the decoder at the feature map's resolution."""
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the clean image is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "Denoising":
            """A denoising autoencoder around any encoder."""
            return Denoising(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        width, grid = cast(Any, encoder).num_features, grid_of(encoder, image_size)
        self.decoder = ImageDecoder(width, grid, image_size, 3, config.hidden_dim)

    def views(self) -> ViewSpec:
        """One view."""
        return one_sized(self.config.view, self.image_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: mean squared error; that of the mean colour is about 1."""
        decoded = self.decode(self.corrupted(batch))
        errors = (decoded - batch.views[0]).square()
        self.note_losses(lambda: errors)
        return {"loss": errors.mean()}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def decode(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """What the decoder makes of the encoder's feature map, in fp32 or better."""
        decoded = self.decoder(self.read(self.encoder, images))
        return decoded.to(torch.promote_types(decoded.dtype, torch.float32))

    def corrupted(self, batch: Batch) -> Float[Tensor, "b 3 s s"]:
        """The images as the encoder sees them."""
        images, (height, width) = batch.views[0], batch.views[0].shape[2:]
        if self.config.corruption == "gaussian":
            return images + self.config.deviation * normal_noise(batch, "denoising", (3, height, width))
        draws = uniform_noise(batch, "denoising", (1, height, width))
        if self.config.corruption == "masking":
            return torch.where(draws < self.config.share, torch.zeros_like(images), images)
        lowest, highest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        extremes = torch.where(draws < self.config.share / 2, lowest, highest)
        return torch.where(draws < self.config.share, extremes, images)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """For a few images: what the encoder saw, what the decoder made of it, and what it should be."""
        seen = self.corrupted(batch)[:NUM_PICTURED]
        return torch.stack([seen, self.decode(seen), batch.views[0][:NUM_PICTURED]]).float()
