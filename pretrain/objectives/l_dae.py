"""l-DAE: deconstructing denoising diffusion models for self-supervised learning (Chen et al. 2024, arXiv:2401.14404).

What is left of a latent diffusion model when all is taken away that features do not need: noise is added to few numbers
of each patch, its first d principal components, and the whole clean image is predicted. With m the mean of patches, V
all of their components as columns, V_d the first d, r the deviation of a patch along these d on average, and p a patch,

    z = V_d' (p - m),   p~ = m + V_d (z + s r e),   e ~ N(0, I),   s drawn evenly from 0..sqrt(2),
    L = mean over images and patches of  1 / (1 + s^2) mean over i of  w_i (V' (decoder(encoder(x~)) - p))_i^2

with w_i = 1 for the first d components and 0.1 for the others. What is no part of the d components does not reach the
encoder. V and m are found before the first step, by PCA of patches of some training images, spread evenly over them.

What differs from the paper, as far as it is known here (there is no code of the authors):
- r is one number for all components, so that s is in units of the latents; how theirs are scaled is not said.
- The encoder is a plain vision transformer that is not told s, nor is the decoder; theirs are told the time by adaLN.
- The decoder is MAE's, 8 blocks of 512; theirs is always as large as the encoder, and depth matters to them.
- When it is judged the encoder sees plain images, with all of their components.

To expect: ViT-L, ImageNet-1k, linear probe: 70.9 % after 400 epochs; after 1600, with random crops and at the best
noise, 75.0 %, where MAE has 75.8 % (table 4).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import take_from_first
from eyespot.pretrain.families.denoising_transformer import DenoisingTransformer
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.noise import normal_noise
from eyespot.pretrain.images.patch_components import principal_components, spread_patches
from eyespot.pretrain.images.patchify import patchify
from eyespot.pretrain.objective import About

PATCHES_PER_IMAGE = 16
"""Of which the components are found."""
LEAST = 1e-3
"""Smallest deviation of the latents: patches that are all alike have none."""


class LDAE(DenoisingTransformer):
    """Makes the clean image from one whose patches have noise along their principal components."""

    picture_rows = ("with noise along few components", "predicted", "image")
    refresh_epochs = math.inf

    @dataclass(kw_only=True, slots=True)
    class Config(DenoisingTransformer.Config):
        """The paper's numbers."""

        about: ClassVar = About(
            family="reconstruction",
            task="the image without noise along the principal components of its patches",
            paper="Chen et al.",
            year=2024,
            link="arXiv:2401.14404",
            needs="a vision transformer",
            expected="ViT-L/16, ImageNet-1k, linear: 70.9 % after 400 epochs, 75.0 % after 1600",
        )

        latent_dim: Annotated[int, Ge(1)] = 16
        """d, components of a patch that the encoder sees, with noise."""
        deviation: Annotated[float, Gt(0)] = math.sqrt(2)
        """Of the noise, the largest, in units of the latents' own."""
        levels: Literal["many", "one"] = "many"
        """many = each image's deviation is drawn evenly from 0 to the largest; one = all have the largest, of which the
        paper's is sqrt(1/3)."""
        residual_weight: Annotated[float, Ge(0), Le(1)] = 0.1
        """Weight of errors along the other components; that of the first ones is 1."""
        basis_images: Annotated[int, Ge(1)] = 4096
        """Training images, 16 patches of each, by which the components are found."""

        def build(self, encoder: nn.Module, image_size: int) -> "LDAE":
            """Around ``encoder``, which must be a timm vision transformer."""
            return LDAE(self, encoder, image_size)

    config: Config
    mean: Float[Tensor, " p"]
    """m."""
    basis: Float[Tensor, "p d"]
    """V_d."""
    spread: Float[Tensor, ""]
    """r."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size)
        if config.latent_dim > self.num_values:
            raise UserError(
                f"objective.latent_dim {config.latent_dim}: a patch of {self.patch_size} pixels has {self.num_values}"
                " components; lower it"
            )
        self.refresh_samples = config.basis_images
        self.register_buffer("mean", torch.zeros(self.num_values))
        self.register_buffer("basis", torch.eye(self.num_values, config.latent_dim))
        self.register_buffer("spread", torch.ones(()))

    def refresh_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b _"]:
        """Some of their patches."""
        return spread_patches(images, self.patch_size, PATCHES_PER_IMAGE).flatten(1)

    @torch.no_grad()
    def refresh(self, features: Float[Tensor, "n _"] | None) -> None:
        """Finds the components, on rank 0."""
        if features is not None:
            patches = features.unflatten(1, (-1, self.num_values)).flatten(0, 1)
            mean, basis, variances = principal_components(patches, self.config.latent_dim)
            self.mean.copy_(mean)
            self.basis.copy_(basis)
            self.spread.copy_(variances.mean().sqrt().clamp_min(LEAST))
        for buffer in (self.mean, self.basis, self.spread):
            take_from_first(buffer)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}; and the plain mean squared error: that of the mean colour is about 1."""
        patches, deviations = patchify(batch.views[0], self.patch_size), self.deviations(batch)
        predicted = self.decode(self.image_of(self.noised(batch, patches, deviations)))
        with torch.autocast(patches.device.type, enabled=False):
            wrong = predicted - patches
            along = (wrong @ self.basis.to(wrong.dtype)).square().sum(2)
            errors, rest = wrong.square().sum(2), self.config.residual_weight
            weighted = (rest * errors + (1 - rest) * along).mean(1) / self.num_values
            loss = (weighted / (1 + deviations.square())).mean()
        return {"loss": loss, "error": errors.mean() / self.num_values}

    def deviations(self, batch: Batch) -> Float[Tensor, " b"]:
        """s of each image."""
        draws = batch.uniforms("l_dae/deviation", 1)[:, 0].to(batch.views[0].dtype)
        return self.config.deviation * (draws if self.config.levels == "many" else torch.ones_like(draws))

    def noised(
        self, batch: Batch, patches: Float[Tensor, "b n p"], deviations: Float[Tensor, " b"]
    ) -> Float[Tensor, "b n p"]:
        """p~ of each patch."""
        with torch.autocast(patches.device.type, enabled=False):
            latents = (patches - self.mean) @ self.basis
            noise = normal_noise(batch, "l_dae", tuple(latents.shape[1:])).to(latents.dtype)
            noisy = latents + self.spread * deviations[:, None, None] * noise
            return self.mean + noisy @ self.basis.T

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """For a few images: what the encoder saw, what was made of it, and what it should be."""
        patches = patchify(batch.views[0], self.patch_size)
        noisy = self.image_of(self.noised(batch, patches, self.deviations(batch))[:NUM_PICTURED])
        return torch.stack([noisy, self.image_of(self.decode(noisy)), batch.views[0][:NUM_PICTURED]]).float()
