"""Diffusion: denoising diffusion probabilistic models, as a pretext task (Ho et al. 2020, arXiv:2006.11239).

Noise e of the standard normal distribution is mixed into an image x, more of it the larger the time t, and the network
says which noise it was (equation 14). With t drawn evenly from 1..T, T = 1,000, and beta_t rising evenly from 0.0001 to
0.02,

    x_t = sqrt(a_t) x + sqrt(1 - a_t) e,   a_t = product over s <= t of (1 - beta_s),
    L = mean over images, pixels and channels of (decoder(encoder(x_t), x_t, t) - e)^2.

Saying 0 costs 1. What each pixel alone could say, without its neighbours, is sqrt(1 - a_t) x_t, which is the best there
is where pixels are normal; it is logged as ``error_pixelwise``. That such a network's features tell classes apart is
DDAE's finding (Xiang et al. 2023, arXiv:2303.09769).

What differs from the papers:
- Theirs is a U-Net that is told t in each of its blocks. Here the encoder is a plain vision transformer that sees noisy
  images and nothing else, so that it stays what timm can load, and its features at any noise level are those of images
  with that noise. A few more blocks make the noise of its tokens; they are told the noisy patches, as by the longest
  connection of a U-Net or U-ViT (Bao et al. 2023, arXiv:2209.12152), and t, by sines, cosines and two layers. The
  layers that tell them begin as torch's own do, all others as MAE's, by Xavier: with it for all, the gate's linear
  probe had 41.6 % in place of 41.9.
- No dropout (DDPM on CIFAR-10: 0.1; from memory), and no moving average of the weights: the rate falls to 0 instead.
  No image is made: the network is thrown away but for its encoder. It sees images without noise when it is judged,
  where DDAE adds a little (t = 11) and asks a block in the middle; ``eyespot eval layers --noise-level 11`` does.
- Images are normalised by the data set's colours, not to -1..1, and are cropped by chance; DDPM only flips them.

To expect: DDPM's U-Net on CIFAR-10, DDAE's linear probe of a block in the middle, chosen with t: 90.1 %
(from memory, as its t = 11).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.denoising_transformer import DenoisingTransformer
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.noise import kept_shares, normal_noise
from eyespot.pretrain.images.patchify import patchify
from eyespot.pretrain.objective import About

SLOWEST = 10_000
"""Steps of time in which the slowest wave of the time's embedding turns by one radian (Vaswani et al. 2017)."""


class Diffusion(DenoisingTransformer):
    """Says which noise was mixed into an image."""

    picture_rows = ("with little to much noise", "the noise taken away", "image")

    @dataclass(kw_only=True, slots=True)
    class Config(DenoisingTransformer.Config):
        """The paper's noise."""

        about: ClassVar = About(
            family="reconstruction",
            task="which noise was mixed into the image",
            paper="Ho et al.",
            year=2020,
            link="arXiv:2006.11239",
            needs="a vision transformer",
            expected="DDPM's U-Net, CIFAR-10, linear on the best block and noise (DDAE): 90.1 %",
        )

        num_times: Annotated[int, Ge(1)] = 1000
        """T, the time of the most noise."""
        betas: tuple[float, float] = (1e-4, 0.02)
        """How much of the variance is noise's at the first and the last step, the others evenly between."""

        def __post_init__(self) -> None:
            DenoisingTransformer.Config.__post_init__(self)
            if not 0 < self.betas[0] <= self.betas[1] < 1:
                raise UserError(f"objective.betas {self.betas}: must lie between 0 and 1, the smaller one first")

        def build(self, encoder: nn.Module, image_size: int) -> "Diffusion":
            """Around ``encoder``, which must be a timm vision transformer."""
            return Diffusion(self, encoder, image_size)

    config: Config
    kept: Float[Tensor, " times"]
    """a_t of each time, from 1 on."""
    frequencies: Float[Tensor, " half"]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size)
        dim = config.decoder_dim
        self.decoder_noisy = nn.Linear(self.num_values, dim)
        self.decoder_time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        waves = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2)
        self.register_buffer("kept", kept_shares(config.num_times, *config.betas).float(), persistent=False)
        self.register_buffer("frequencies", torch.exp(-math.log(SLOWEST) * waves).float(), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: mean squared error; and that of a guess from each pixel alone."""
        images, times = batch.views[0], self.times(batch)
        noise = normal_noise(batch, "diffusion", (3, *images.shape[2:]))
        noisy = self.noised(images, noise, times)
        error = (self.noise_in(noisy, times) - patchify(noise, self.patch_size)).square().mean()
        alone = (noisy * (1 - self.kept_at(times)).sqrt() - noise).square().mean()
        return {"loss": error, "error_pixelwise": alone}

    def times(self, batch: Batch) -> Int[Tensor, " b"]:
        """Each sample's t, 1..T."""
        return 1 + (batch.uniforms("diffusion/time", 1)[:, 0] * self.config.num_times).long()

    def kept_at(self, times: Int[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
        """a_t."""
        return self.kept[times - 1][:, None, None, None]

    def noised(
        self, images: Float[Tensor, "b 3 h w"], noise: Float[Tensor, "b 3 h w"], times: Int[Tensor, " b"]
    ) -> Float[Tensor, "b 3 h w"]:
        """x_t."""
        kept = self.kept_at(times)
        return kept.sqrt() * images + (1 - kept).sqrt() * noise

    def noise_in(self, noisy: Float[Tensor, "b 3 h w"], times: Int[Tensor, " b"]) -> Float[Tensor, "b n p"]:
        """The noise that is said to be in each patch, in fp32 or better."""
        angles = times[:, None].to(self.frequencies.dtype) * self.frequencies
        time = self.decoder_time(torch.cat([angles.sin(), angles.cos()], dim=1))
        return self.decode(noisy, self.decoder_noisy(patchify(noisy, self.patch_size)) + time[:, None])

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """A few images with noise of times that rise evenly, the same without what is said to be noise, and clean."""
        images = batch.views[0][:NUM_PICTURED]
        noise = normal_noise(batch, "diffusion", (3, *images.shape[2:]))[: len(images)]
        times = (torch.arange(1, len(images) + 1, device=images.device) * self.config.num_times) // (len(images) + 1)
        times = times.clamp_min(1)
        noisy, kept = self.noised(images, noise, times), self.kept_at(times)
        cleaned = (noisy - (1 - kept).sqrt() * self.image_of(self.noise_in(noisy, times))) / kept.sqrt()
        return torch.stack([noisy, cleaned.clamp(images.min(), images.max()), images]).float()
