"""Variational autoencoder: auto-encoding variational Bayes (Kingma & Welling 2014, arXiv:1312.6114).

Loss (equation 10, with one draw per image): two linear layers on the encoder's pooled features give mean m and
log-variance of a normal distribution over latents z; the decoder makes of one draw from it the mean of a normal
distribution over pixels, whose standard deviation s is fixed. With D values (pixels times channels) in an image,

    z = m + exp(log variance / 2) e,   e ~ N(0, I),
    KL = 1/2 sum over latents of (m^2 + variance - log variance - 1),
    L = (-log N(x | decoder(z), s^2) + beta KL) / D,

averaged over the batch. At beta = 1 it is the negative evidence lower bound of an image: nats summed over all of its
values and latents, and only then divided by D, so that neither the balance of the two terms nor the learning rate's
meaning depends on the image's size. (A mean squared error plus a mean KL would have another balance.) Other betas are
beta-VAE's (Higgins et al. 2017). Views are normalised, so s is in standard deviations of the data set's colours.

What differs from the paper: it has gray values, a decoder with a deviation of its own for each pixel or Bernoulli
pixels, and one hidden layer.

To expect: no number for features; about -100 nats for the bound on MNIST's digits (figure 2; from memory).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.random_numbers import normals
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.noise import normal_noise
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.image_decoder import ImageDecoder
from eyespot.pretrain.objective import About, Objective, one_sized

GRID = 4
"""Height and width of the map that a latent becomes first."""


class VAE(Objective):
    """Describes an image by a distribution over latents from which it can be made again."""

    picture_rows = ("image", "made from its latents", "made from latents drawn blindly")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """A true lower bound."""

        about: ClassVar = About(
            family="reconstruction",
            task="the image, through a few numbers with noise",
            paper="Kingma & Welling",
            year=2014,
            link="arXiv:1312.6114",
        )

        latent_dim: Annotated[int, Ge(1)] = 128
        """Latents of an image."""
        beta: Annotated[float, Ge(0), "must be 0 or more; 1 = the evidence lower bound"] = 1.0
        """Weight of the KL divergence; 1 = the evidence lower bound."""
        deviation: Annotated[float, Gt(0)] = 0.5
        """Standard deviation of a pixel around what is decoded, in those of the data set."""
        hidden_dim: Annotated[int, Ge(1)] = 128
        """Channels of the decoder's first map."""
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the image is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "VAE":
            """A variational autoencoder around any encoder."""
            return VAE(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.posterior = nn.Linear(feature_width(encoder), 2 * config.latent_dim)
        self.spread = nn.Linear(config.latent_dim, config.hidden_dim * GRID**2)
        self.decoder = ImageDecoder(config.hidden_dim, (GRID, GRID), image_size, 3, config.hidden_dim)

    def views(self) -> ViewSpec:
        """One view."""
        return one_sized(self.config.view, self.image_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"} in nats per value; the mean squared error, and the KL divergence in nats per image."""
        images = batch.views[0]
        mean, log_variance = self.describe(images)
        noise = normal_noise(batch, "vae", (self.config.latent_dim,))
        decoded = self.make(mean + (log_variance / 2).exp() * noise)
        error, kl = (decoded - images).square().mean(), divergence(mean, log_variance).mean()
        variance = self.config.deviation**2
        nats = (error / variance + math.log(2 * math.pi * variance)) / 2
        return {"loss": nats + self.config.beta * kl / images[0].numel(), "error": error, "kl": kl}

    def describe(self, images: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log-variance of the images' latents, in fp32 or better."""
        posterior = self.posterior(self.encode(images))
        mean, log_variance = posterior.to(torch.promote_types(posterior.dtype, torch.float32)).chunk(2, dim=1)
        return mean, log_variance

    def make(self, latents: Float[Tensor, "b d"]) -> Float[Tensor, "b 3 s s"]:
        """The mean image of each latent, in fp32 or better."""
        decoded = self.decoder(self.spread(latents).unflatten(1, (-1, GRID, GRID)))
        return decoded.to(torch.promote_types(decoded.dtype, torch.float32))

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """A few images, what is made of their mean latents, and of as many latents of the prior, always the same."""
        images = batch.views[0][:NUM_PICTURED]
        mean, _ = self.describe(images)
        blind = normals(0, np.zeros(len(images), np.int64), np.arange(len(images)), "vae/prior", mean.shape[1])
        rows = [self.make(latents) for latents in (mean, torch.from_numpy(blind).to(mean))]
        return torch.stack([images, *rows]).float()


def divergence(mean: Float[Tensor, "b d"], log_variance: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """KL of these normal distributions from the standard one, nats per image (appendix B)."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
