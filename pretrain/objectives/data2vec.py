"""data2vec 2.0: efficient self-supervised learning with contextualized target representations (arXiv:2212.07525).

Baevski et al. 2022, of which the vision model. A teacher sees the whole image once. The encoder sees M times a few of
its patches, which lie in small blocks, and a convolutional decoder says what the teacher makes of the others. With
f_kp what the feed-forward layer of the teacher's block k says of patch p, y_p the mean over its last K blocks of f_k,
each normalised over the patches of the image channel by channel, normalised over its channels, z_p the decoder's answer
of a mask m, and c the encoder's class token under it (sections 3.1 to 3.4),

    L = mean over images and masks m of  mean over hidden p and channels of (z_p - y_p)^2
        + class_weight * mean over channels of (c - mean over all p of y_p)^2.

After each step the teacher's weights follow the encoder's, with a momentum that rises linearly to its last one.

What differs from the authors' code: timm's blocks norm before attention and feed-forward layer, theirs after, and both
of timm's first blocks are said to be a part of the patches' embedding there, so that K = 10 is all the rest; their
squares are summed over channels and divided by their root, a factor on all of the loss; of a hidden patch the decoder
is given nothing where theirs gets noise of 0.01; the share of hidden patches is exact, theirs is first drawn within
0.07 of it. As we read their code, its cls_loss of 0.01 multiplies a sum over a GPU's 16 images and their 16 masks, and
the loss of patches is a mean: between means it is 2.56, on any number of GPUs. No run of theirs was compared.

It is the student that is kept. ``encode`` gives the mean of the patches.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_autoencoder import CropScale, check_crop
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patch_masks import inverse_block_order, num_inverse_blocks
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.networks.ema_teacher import follow, make_steady_teacher
from eyespot.pretrain.networks.encoders import mean_features, require_vit
from eyespot.pretrain.objective import About, Objective
from eyespot.pretrain.skipped_step import Taken


class NotingBlock(Block):
    """A block of timm's that keeps what its feed-forward part added last.

    Whoever cuts parameters up gathers those of a block when it is called, so its parts cannot be called one by one.
    """

    added: Tensor | None = None

    def forward(
        self, x: Float[Tensor, "b n d"], attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Float[Tensor, "b n d"]:
        """As ``Block``'s, without dropped paths: a teacher has none."""
        x = x + self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal))
        self.added = added = self.ls2(self.mlp(self.norm2(x)))
        return x + added


class Data2Vec(Objective):
    """Says, from few patches of an image, what a slow teacher that sees all makes of the others, many masks at once."""

    picture_rows = ("image", "what the encoder sees, of one mask")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The authors' numbers for ViT-B/16 (base_images_only_task.yaml)."""

        about: ClassVar = About(
            family="joint embedding",
            task="what a slow teacher's blocks make of hidden patches",
            paper="Baevski et al.",
            year=2022,
            link="arXiv:2212.07525",
            needs="a vision transformer",
            expected="",
        )

        num_masks: Annotated[int, Ge(1), Le(64)] = 16
        """Masks of each image, for one look of the teacher."""
        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.8
        """Share of the patches that the encoder does not see."""
        block_size: Annotated[int, Ge(1)] = 3
        """Height and width of the blocks that it sees, patches."""
        top_blocks: Annotated[int, Ge(1)] = 10
        """Of how many of the teacher's last blocks the mean is to be said."""
        decoder_dim: Annotated[int, Ge(1)] = 768
        """Channels of the decoder."""
        decoder_depth: Annotated[int, Ge(1), Le(1000)] = 6
        """Convolutions of the decoder."""
        decoder_kernel: Annotated[int, Ge(1)] = 3
        """Height and width of each, patches: odd."""
        decoder_groups: Annotated[int, Ge(1)] = 16
        """Groups of channels of each."""
        class_weight: Annotated[float, Ge(0)] = 2.56
        """Weight of what the class token must say, against all patches; where there is none it does not count."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.9998
        """The teacher's momentum at the first step, 0..1."""
        final_momentum: Annotated[float, Ge(0), Le(1)] = 0.99999
        """And once ``warmup`` is over, 0..1."""
        warmup: Annotated[float, Ge(0), Le(1)] = 100_000 / 375_300
        """Share of the run in which it rises, linearly."""
        crop_scale: CropScale = (0.2, 1.0)
        """Smallest and largest area of the random crop, as a share of the image."""
        flip: Annotated[float, Ge(0), Le(1)] = 0.5
        """Probability that the crop is mirrored."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            check_crop(self.crop_scale)
            if self.decoder_kernel % 2 == 0:
                raise UserError(f"objective.decoder_kernel {self.decoder_kernel}: must be odd, so that it has a middle")

        def build(self, encoder: nn.Module, image_size: int) -> "Data2Vec":
            """data2vec around ``encoder``, which must be a timm vision transformer."""
            return Data2Vec(self, encoder, image_size)

    encoder: VisionTransformer  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.encoder = require_vit(encoder, "Data2Vec")  # pyright: ignore[reportIncompatibleVariableOverride]
        blocks = cast("list[nn.Module]", list(self.encoder.blocks))
        if not all(type(block) is Block for block in blocks):
            kind = type(blocks[0]).__name__
            raise UserError(f"encoder {kind}: Data2Vec needs timm's plain blocks; try vit_base_patch16_224")
        if config.top_blocks > len(blocks):
            raise UserError(f"objective.top_blocks {config.top_blocks}: the encoder has {len(blocks)} blocks; lower it")
        self.patch_size: int = self.encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = self.encoder.patch_embed.grid_size
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_visible = round(self.num_patches * (1 - config.mask_ratio))
        if not 0 < self.num_visible < self.num_patches:
            raise UserError(
                f"objective.mask_ratio {config.mask_ratio}: nothing {'hidden' if self.num_visible else 'visible'} of"
                f" {self.num_patches} patches; {'raise' if self.num_visible else 'lower'} it"
            )
        self.teacher_encoder = make_steady_teacher(self.encoder)
        for block in self.teacher_encoder.blocks:
            block.__class__ = NotingBlock
        self.decoder = Decoder(self.encoder.embed_dim, config)

    def views(self) -> ViewSpec:
        """One random resized crop, flipped or not."""
        view = RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip)
        return ViewSpec(views=(view,))

    def mask_orders(self, batch: Batch) -> Int[Tensor, "b m n"]:
        """For each mask an order of the image's patches: the first ``num_visible`` are seen, the rest hidden."""
        draws = 2 * num_inverse_blocks(self.num_visible, self.config.block_size)
        masks, of_each = self.config.num_masks, draws + self.num_patches
        numbers = batch.uniforms("data2vec/masks", masks * of_each).view(-1, of_each)
        centres, ties = numbers.split((draws, self.num_patches), dim=1)
        order = inverse_block_order(centres, ties, self.grid, self.config.block_size)
        return order.view(-1, masks, self.num_patches)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: squared error of what is said of hidden patches, and a little of what the class token says.

        Returns:
            "target_deviation": standard deviation over images of what is to be said of the same patch, mean over
                channels: near 1 where that tells images apart, 0 where it tells places only.
        """
        goals = self.goals(batch.views[0])
        order = self.mask_orders(batch)
        tokens = self.see(batch.views[0], order[:, :, : self.num_visible])
        said = self.decoded(tokens, order).to(goals.dtype)
        hidden = order[:, :, self.num_visible :, None].expand(-1, -1, -1, goals.shape[2])
        errors = (said - goals[:, None].expand(-1, order.shape[1], -1, -1)).square().gather(2, hidden)
        losses = errors.flatten(1).mean(1)
        if self.encoder.cls_token is not None:
            of_class = tokens[:, :, 0].to(goals.dtype) - goals.mean(1)[:, None]
            losses = losses + self.config.class_weight * of_class.square().flatten(1).mean(1)
        self.note_losses(lambda: losses)
        return {"loss": losses.mean(), "target_deviation": goals.std(0, correction=0).mean()}

    @torch.no_grad()
    def goals(self, view: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What is to be said of each patch, in float32 at least."""
        vit = self.teacher_encoder
        tokens, said = vit.norm_pre(vit._pos_embed(vit.patch_embed(view))), []
        for block in cast("list[NotingBlock]", list(vit.blocks)):
            tokens = block(tokens)
            said.append(block.added)
            block.added = None
        wide = torch.promote_types(tokens.dtype, torch.float32)
        patches = [part[:, vit.num_prefix_tokens :].to(wide) for part in said[-self.config.top_blocks :]]
        normed = [F.instance_norm(part.transpose(1, 2)).transpose(1, 2) for part in patches]
        mean = torch.stack(normed).mean(0)
        return F.layer_norm(mean, mean.shape[-1:])

    def see(self, view: Float[Tensor, "b 3 h w"], visible: Int[Tensor, "b m v"]) -> Float[Tensor, "b m t d"]:
        """What the encoder makes of the visible patches of each mask, after its last norm: prefix tokens first."""
        vit, masks = self.encoder, visible.shape[1]
        tokens = vit._pos_embed(vit.patch_embed(view)).repeat_interleave(masks, 0)
        index = (visible.flatten(0, 1) + vit.num_prefix_tokens)[..., None].expand(-1, -1, tokens.shape[2])
        tokens = vit.norm_pre(torch.cat([tokens[:, : vit.num_prefix_tokens], tokens.gather(1, index)], dim=1))
        tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
        return vit.norm(tokens).unflatten(0, (len(view), masks))

    def decoded(self, tokens: Float[Tensor, "b m t d"], order: Int[Tensor, "b m n"]) -> Float[Tensor, "b m n d"]:
        """What the decoder says of all patches, row by row, from the tokens of the visible ones."""
        seen = tokens[:, :, self.encoder.num_prefix_tokens :].flatten(0, 1)
        index = order.flatten(0, 1)[:, : self.num_visible, None].expand_as(seen)
        placed = seen.new_zeros(len(seen), self.num_patches, seen.shape[2]).scatter(1, index, seen)
        said = self.decoder(placed.transpose(1, 2).unflatten(2, self.grid))
        return said.flatten(2).transpose(1, 2).unflatten(0, order.shape[:2])

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return cast(Any, encoder).forward_features(images)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The mean of the patch tokens."""
        return mean_features(self.encoder, images)

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows."""
        config = self.config
        share = min(1.0, progress / config.warmup) if config.warmup else 1.0
        follow(
            self.teacher_encoder,
            self.encoder,
            config.momentum + (config.final_momentum - config.momentum) * share,
            taken,
        )

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "2 n 3 h w"]:
        """Two rows: images, and the patches that the encoder sees under one mask."""
        images = batch.views[0][:NUM_PICTURED].float()
        visible = self.mask_orders(batch)[: len(images), 0, : self.num_visible]
        patches = patchify(images, self.patch_size)
        shown = torch.zeros_like(patches[..., :1]).scatter(1, visible[..., None], 1.0)
        return torch.stack([images, unpatchify(patches * shown, self.patch_size, self.grid)])


class Decoder(nn.Module):
    """Convolutions over the grid of patches, each with a norm and a GELU, and a residual where widths agree.

    Args:
        width: channels of the encoder's tokens, and of what is said.
        config: its own width, depth, kernel and groups.

    Raises:
        UserError: the groups do not divide both widths.
    """

    def __init__(self, width: int, config: Data2Vec.Config) -> None:
        super().__init__()
        dim, groups = config.decoder_dim, config.decoder_groups
        if dim % groups or width % groups:
            raise UserError(
                f"objective.decoder_groups {groups}: must divide objective.decoder_dim {dim} and the encoder's {width}"
                " channels"
            )
        widths = [width, *[dim] * config.decoder_depth]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, dim, config.decoder_kernel, padding="same", groups=groups) for before in widths[:-1]
        )
        self.out = nn.Linear(dim, width)

    def forward(self, tokens: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """What is said of each place.

        Args:
            tokens: the encoder's, each at its place; nothing where a patch is hidden.
        """
        for layer in self.layers:
            found = layer(tokens).movedim(1, -1)
            found = F.gelu(F.layer_norm(found, found.shape[-1:])).movedim(-1, 1)
            tokens = tokens + found if tokens.shape == found.shape else found
        return self.out(tokens.movedim(1, -1)).movedim(-1, 1)
