"""I-JEPA: an image-based joint-embedding predictive architecture (Assran et al. 2023, arXiv:2301.08243).

Loss (section 3): the encoder sees a context, the patches of one large block that lie in none of M target blocks. A
narrow transformer predicts from it, for each target block B on its own, what the teacher, which sees the whole image,
makes of the patches there; with s_p the teacher's token of patch p, normalised over its channels, without scale or
shift, and smooth_l1(e) = e^2 / 2 below 1 and |e| - 1/2 above,

    L = mean over images, target blocks B and p in B of  mean smooth_l1(predictor(encoder(context), B)_p - s_p).

After each step the teacher's weights follow the encoder's, with a momentum that rises linearly, to 1 by default. It is
the teacher that is kept.

The paper writes a squared distance; smooth_l1 is the authors' code's. What differs from that code:
- How many patches are seen and predicted is a number of the run, the same for all images. There the lists of patches
  are cut to the shortest one of a GPU's batch: so the task depends on how many GPUs share a batch, and what is cut off
  are an image's last rows. Here a share of the patches is seen (``context_ratio``; of 128 images of 14 x 14 patches
  that cut leaves 24 % on the average, counted by drawing them), and of each target block as many are predicted as the
  smallest one has; which ones is drawn, too.
- Blocks are each sample's own, sizes too: there area and aspect of all blocks of a batch follow from one number. A
  target block that leaves too little to be seen lies where the one before it lies (14 x 14: one image in a hundred).
- The encoder is initialised as timm does; theirs then divides the last layers of block l by sqrt(2 l), as here the
  predictor's are.

A class token, where the encoder has one, takes part in the encoder's attention only: the predictor does not see it, and
``encode`` gives the mean of the patches.

To expect: ViT-H/14 on ImageNet-1k, 300 epochs: 79.3 % linear probe; ViT-B/16, 600 epochs: 72.9 % (table 1).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_autoencoder import CropScale, check_crop
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patchify import patchify, take, unpatchify
from eyespot.pretrain.images.target_blocks import Blocks, multi_block
from eyespot.pretrain.networks.ema_teacher import follow, make_steady_teacher
from eyespot.pretrain.networks.encoders import encode_visible, mean_features, require_vit
from eyespot.pretrain.networks.positions import check_sincos, fix_positions, sincos_positions
from eyespot.pretrain.objective import About, Objective
from eyespot.pretrain.skipped_step import Taken

Share = Annotated[float, Gt(0), Le(1)]
Aspect = Annotated[float, Gt(0)]


class IJEPA(Objective):
    """Predicts, from some patches of an image, what a slow teacher makes of blocks of others."""

    picture_rows = ("image", "what the encoder sees", "of which patches tokens are predicted")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's defaults (section 4 and appendix A.1); the predictor is that of its larger encoders."""

        about: ClassVar = About(
            family="joint embedding",
            task="what a slow teacher makes of hidden blocks of the image",
            paper="Assran et al.",
            year=2023,
            link="arXiv:2301.08243",
            needs="a vision transformer",
            expected="ViT-H/14, ImageNet-1k, 300 epochs, linear: 79.3 %",
        )

        num_targets: Annotated[int, Ge(1), Le(64)] = 4
        """Target blocks of each image."""
        target_scale: tuple[Share, Share] = (0.15, 0.2)
        """Smallest and largest area of a target block, as a share of the image."""
        target_aspect: tuple[Aspect, Aspect] = (0.75, 1.5)
        """Smallest and largest height / width of a target block."""
        context_scale: tuple[Share, Share] = (0.85, 1.0)
        """Smallest and largest area of the block that the context is taken from, as a share of the image."""
        context_ratio: Share = 0.25
        """Share of the patches that the encoder sees."""
        predictor_dim: Annotated[int, Ge(1)] = 384
        """Channels of the predictor's tokens."""
        predictor_depth: Annotated[int, Ge(1), Le(1000)] = 12
        """Blocks of the predictor."""
        predictor_heads: Annotated[int, Ge(1)] = 12
        """Attention heads of the predictor."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.996
        """The teacher's momentum at the first step, 0..1."""
        final_momentum: Annotated[float, Ge(0), Le(1)] = 1.0
        """And at the run's end, 0..1: a line between them. A teacher that stands still at last is, in a short run, what
        the encoder was long before."""
        crop_scale: CropScale = (0.3, 1.0)
        """Smallest and largest area of the random crop, as a share of the image."""
        flip: Annotated[float, Ge(0), Le(1)] = 0.0
        """Probability that the crop is mirrored."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            check_crop(self.crop_scale)
            for name in ("target_scale", "target_aspect", "context_scale"):
                low, high = getattr(self, name)
                if not low <= high:
                    raise UserError(f"objective.{name} {(low, high)}: must have the smaller number first")
            if self.predictor_dim % self.predictor_heads:
                raise UserError(
                    f"objective.predictor_dim {self.predictor_dim}: must be a multiple of objective.predictor_heads"
                    f" {self.predictor_heads}"
                )
            check_sincos("objective.predictor_dim", self.predictor_dim, self.predictor_heads)

        def build(self, encoder: nn.Module, image_size: int) -> "IJEPA":
            """I-JEPA around ``encoder``, which must be a timm vision transformer."""
            return IJEPA(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.student: VisionTransformer = require_vit(encoder, "IJEPA")
        patches = self.student.patch_embed
        self.patch_size: int = patches.patch_size[0]
        self.blocks = Blocks(
            grid=patches.grid_size,
            num_targets=config.num_targets,
            target_scale=config.target_scale,
            target_aspect=config.target_aspect,
            context_scale=config.context_scale,
            context_ratio=config.context_ratio,
        )
        self.blocks.check()
        fix_positions(self.student, "IJEPA")
        self.encoder = make_steady_teacher(self.student)
        self.predictor = Predictor(self.student.embed_dim, self.blocks.grid, config)

    def views(self) -> ViewSpec:
        """One random resized crop: the paper augments by nothing else."""
        view = RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip)
        return ViewSpec(views=(view,))

    def drawn(self, batch: Batch) -> tuple[Int[Tensor, "b seen"], Int[Tensor, "b targets predicted"]]:
        """Which patches are seen, and of which tokens are predicted, target block by target block."""
        draws = batch.uniforms("ijepa/blocks", self.blocks.num_draws)
        return multi_block(draws, batch.uniforms("ijepa/patches", self.blocks.num_patches), self.blocks)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: half the squared error of the predicted tokens, where that is small; and how the teacher is doing.

        Returns:
            "target_deviation": standard deviation over images of the teacher's token of the same patch, mean over
                channels: near 1 where tokens tell images apart, 0 where they tell places only.
        """
        context, targets = self.drawn(batch)
        of_all = self.goals(batch.views[0])
        goals = take(of_all, targets.flatten(1)).unflatten(1, targets.shape[1:])
        seen = self.read_visible(self.student, batch.views[0], context)
        errors = F.smooth_l1_loss(self.predictor(seen, context, targets).to(goals.dtype), goals, reduction="none")
        self.note_losses(lambda: errors)
        return {"loss": errors.mean(), "target_deviation": of_all.std(0, correction=0).mean()}

    @torch.no_grad()
    def goals(self, view: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """The teacher's tokens of all patches, normalised over their channels, in float32 at least."""
        tokens = self.read_visible(self.encoder, view)
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        return F.layer_norm(wide, wide.shape[-1:])

    def read_visible(
        self, encoder: nn.Module, view: Float[Tensor, "b c h w"], visible: Int[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b v d"]:
        """Tokens of the visible patches, or of all, after the last norm, in the order given."""
        vit = require_vit(encoder, "IJEPA")
        return encode_visible(vit, view, visible)[:, vit.num_prefix_tokens :]

    def read(self, encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """The tokens of all patches, after the last norm."""
        return self.read_visible(encoder, images)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The mean of the patch tokens."""
        return mean_features(self.encoder, images)

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows."""
        first, last = self.config.momentum, self.config.final_momentum
        momentum = first + (last - first) * progress
        follow(self.encoder, self.student, momentum, taken)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n c h w"]:
        """Three rows: images, the context, the patches of all target blocks that are predicted."""
        images = batch.views[0][:NUM_PICTURED].float()
        context, targets = (places[: len(images)].flatten(1) for places in self.drawn(batch))
        patches = patchify(images, self.patch_size)
        shown = torch.zeros((2, *patches.shape[:2], 1), device=images.device)
        for mask, places in zip(shown, (context, targets), strict=True):
            mask.scatter_(1, places[..., None], 1.0)
        rows = [unpatchify(patches * mask, self.patch_size, self.blocks.grid) for mask in shown]
        return torch.stack([images, *rows])


class Predictor(nn.Module):
    """A narrow vision transformer: tokens of seen patches in, tokens of other patches out, block by block.

    Args:
        width: channels of the encoder's tokens.
        grid: how many patches stand above and beside each other.
        config: its own width, depth and heads.
    """

    positions: Float[Tensor, "1 n d"]
    """Of each patch."""

    def __init__(self, width: int, grid: tuple[int, int], config: IJEPA.Config) -> None:
        super().__init__()
        dim, norm = config.predictor_dim, partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos_positions(dim, *grid).float()[None], persistent=False)
        self.blocks = nn.Sequential(
            *(
                Block(dim, config.predictor_heads, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
                for _ in range(config.predictor_depth)
            )
        )
        self.norm = norm(dim)
        self.out = nn.Linear(dim, width)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for number, block in enumerate(cast("list[Block]", list(self.blocks)), 1):
                for layer in (block.attn.proj, block.mlp.fc2):
                    cast(nn.Linear, layer).weight.div_(math.sqrt(2 * number))

    def forward(
        self,
        seen: Float[Tensor, "b v d"],
        context: Int[Tensor, "b v"],
        targets: Int[Tensor, "b blocks m"],
    ) -> Float[Tensor, "b blocks m d"]:
        """The encoder's tokens of the patches ``targets``, of each block without knowing of the others.

        Args:
            seen: the encoder's tokens.
            context: of which patches they are.
            targets: of which patches tokens are wanted.
        """
        positions = self.positions.expand(len(seen), -1, -1)
        tokens = self.embed(seen)
        tokens = tokens + take(positions, context).to(tokens.dtype)
        asked = self.mask_token.to(tokens.dtype) + take(positions, targets.flatten(1)).to(tokens.dtype)
        num_blocks, num_asked = targets.shape[1:]
        asked = asked.unflatten(1, (num_blocks, num_asked)).flatten(0, 1)
        tokens = torch.cat([tokens.repeat_interleave(num_blocks, dim=0), asked], dim=1)
        found = self.out(self.norm(self.blocks(tokens)[:, -num_asked:]))
        return found.unflatten(0, (len(seen), num_blocks))
