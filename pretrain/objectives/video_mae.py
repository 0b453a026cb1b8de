"""VideoMAE: masked autoencoders are data-efficient learners for self-supervised video pretraining (Tong et al. 2022).

arXiv:2203.12602. As MAE, on clips: a patch is a cube of two frames and 16 x 16 pixels, the same places are masked at
all times (tubes: what stands still cannot be copied from another time), and nine tenths of them, because videos repeat
themselves. All visible cubes of all times attend to each other. With M the masked cubes and t_p the pixels of cube p,
normalised for each colour by the cube's own mean and standard deviation,

    L = mean over clips and p in M of  mean((decoder(encoder(visible cubes))_p - t_p)^2).

The encoder stays timm's vision transformer, an image being a clip of one time in which nothing moves: with x_1 and x_2
a cube's frames, its token is

    patch_embed(x_1) + motion(x_2 - x_1) + place + time,

which is a 3-D convolution over both in other words (its kernels: patch_embed - motion, motion). ``motion`` begins at
zero, and the first time's embedding is zero. Encoder and decoder have sines and cosines of places and times, added up.

What differs from the authors' code: that; a class token where the encoder has one, which all cubes see (theirs averages
cubes); positions are not one row of sines over all cubes; crops are random resized ones instead of four sizes at five
places; the decoder sees visible tokens first, as MAE's here; the mask comes from each sample's own random stream.

To expect (from memory): ViT-B/16, Kinetics-400, 1600 epochs, fine-tuned: 81.5 %; linear probes are far below.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float, Int
from timm.models import checkpoint_seq
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_autoencoder import MaskedAutoencoder
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patchify import patchify, take, unpatchify
from eyespot.pretrain.networks.positions import sincos_times
from eyespot.pretrain.objective import About, one_sized, require_clip

FRAMES = 2
"""Of a cube."""


class VideoMAE(MaskedAutoencoder):
    """Encoder on a tenth of a clip's cubes, a light decoder that fills in the rest."""

    picture_rows = ("frames of a clip", "what the encoder sees", "filled in")

    @dataclass(kw_only=True, slots=True)
    class Config(MaskedAutoencoder.Config):
        """The authors' numbers for ViT-B."""

        about: ClassVar = About(
            family="reconstruction",
            task="the pixels of masked tubes of a video",
            paper="Tong et al.",
            year=2022,
            link="arXiv:2203.12602",
            needs="videos, a vision transformer",
            expected="ViT-B/16, Kinetics-400, 1600 epochs, fine-tuned: 81.5 %",
        )

        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.9
        """Share of the places that the encoder does not see, at all times."""
        decoder_dim: Annotated[int, Ge(1)] = 384
        """Channels of the decoder's tokens."""
        decoder_depth: Annotated[int, Ge(0)] = 4
        """Blocks of the decoder."""
        decoder_heads: Annotated[int, Ge(1)] = 6
        """Attention heads of the decoder."""
        view: RandomView = RandomView(scale=(0.44, 1.0), flip=0.0, clip=Clip(16, stride=4))  # noqa: RUF009 - frozen
        """How the clip is made: an even number of frames, all cut alike."""

        def __post_init__(self) -> None:
            MaskedAutoencoder.Config.__post_init__(self)
            if (frames := require_clip(self.view, least=FRAMES).frames) % FRAMES:
                raise UserError(f"objective.view.clip.frames {frames}: must be even, cubes have {FRAMES} frames")

        def build(self, encoder: nn.Module, image_size: int) -> "VideoMAE":
            """VideoMAE around ``encoder``, which must be a timm vision transformer."""
            return VideoMAE(self, encoder, image_size)

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        times = require_clip(config.view).frames // FRAMES
        super().__init__(config, encoder, image_size, times=times, frames=FRAMES)
        projection, dim = self.encoder.patch_embed.proj, self.encoder.embed_dim
        self.motion = nn.Conv2d(3, dim, projection.kernel_size, projection.stride, bias=False)
        nn.init.zeros_(self.motion.weight)
        self.register_buffer("time_positions", sincos_times(dim, times).float(), persistent=False)

    def visible_of(self, count: int) -> int:
        """As the authors count: the masked ones are rounded down."""
        return count - int(count * self.config.mask_ratio)

    def views(self) -> ViewSpec:
        """One clip, cropped at random."""
        return one_sized(self.config.view, self.image_size)

    def mask_order(self, batch: Batch) -> Int[Tensor, "b n"]:
        """A random order of each clip's places, the same at all times; cubes are numbered time by time."""
        order = batch.uniforms("video_mae/mask", self.per_time).argsort(dim=1, stable=True)
        begins = self.per_time * torch.arange(self.times, device=order.device)[:, None]
        parts = order.split((self.num_visible // self.times, order.shape[1] - self.num_visible // self.times), dim=1)
        return torch.cat([(part[:, None] + begins).flatten(1) for part in parts], dim=1)

    def patches(self, view: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n p"]:
        """Time by time, row by row; within a cube the first frame first."""
        frames = patchify(view.flatten(0, 1), self.patch_size).unflatten(0, (-1, self.times, FRAMES))
        return frames.transpose(2, 3).flatten(3).flatten(1, 2)

    def statistics(self, patches: Float[Tensor, "b n p"]) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "b n p"]]:
        """A cube's own, for each colour."""
        pixels = patches.unflatten(2, (-1, 3))
        mean, deviation = pixels.mean(2, keepdim=True), pixels.var(2, keepdim=True).sqrt() + 1e-6
        return mean.expand_as(pixels).flatten(2), deviation.expand_as(pixels).flatten(2)

    def see(self, view: Float[Tensor, "b t 3 h w"], visible: Int[Tensor, "b v"]) -> Float[Tensor, "b tokens d"]:
        """What the encoder makes of the visible cubes, all in one attention."""
        vit, num_prefix = self.encoder, self.encoder.num_prefix_tokens
        first, second = view.flatten(0, 1).unflatten(0, (-1, FRAMES)).unbind(1)
        still, moving = vit.patch_embed(first), self.motion(second - first).permute(0, 2, 3, 1)
        tokens = vit._pos_embed(still + moving.reshape(still.shape)).unflatten(0, (-1, self.times))
        times = self.get_buffer("time_positions").to(tokens.dtype)
        cubes = (tokens[:, :, num_prefix:] + times[:, None]).flatten(1, 2)
        tokens = vit.norm_pre(torch.cat([tokens[:, 0, :num_prefix], take(cubes, visible)], dim=1))
        tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
        return vit.norm(tokens)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """Three rows: the first frames of one clip, what the encoder saw of them, and what it made of that."""
        clip = batch.views[0][:1].float()
        rows = self.filled_in(clip, self.mask_order(batch)[:1])
        shown = clip[0, :NUM_PICTURED]
        return torch.stack([shown, *(self.frames(row)[0, :NUM_PICTURED] for row in rows)])

    def frames(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b t 3 h w"]:
        """The inverse of ``patches``."""
        cubes = patches.unflatten(1, (self.times, -1)).unflatten(3, (FRAMES, -1)).transpose(2, 3)
        return unpatchify(cubes.flatten(0, 2), self.patch_size, self.grid).unflatten(0, (len(patches), -1))
