"""MultiMAE: multi-modal multi-task masked autoencoders (Bachmann et al. 2022, arXiv:2204.01678), of images and depth.

One vision transformer sees a few patches of an image and a few of its depth map; how many of each is drawn for every
sample. A decoder for each of the two fills in the rest. With M_c and M_d the masked patches, t_p the pixels of patch p
normalised by the patch's own mean and standard deviation, z the depth map standardised as a whole (``standard_depth``),
and K the pixels of M_d whose depth was measured,

    L = mean over samples of [ mean over p in M_c of mean (image_p - t_p)^2 + mean over K of |depth - z| ].

The patches of the map have a linear projection of their own, whose bias tells the encoder what they are of, and the
positions of the image's. The shares of the two are from a symmetric Dirichlet distribution of concentration 1, which of
two is the uniform one; where more patches are visible than one of the two has (a mask ratio below 0.5), it is uniform
among the shares that there can be. A decoder (section 3.3) asks with its own patches, masked ones by a learned token,
all that was encoded: one cross attention, then blocks of self attention. What is kept is the encoder of images alone.

What differs from the authors' code: there is no third modality (semantic segmentation: 98 of 588 patches are visible
there, 98 of 392 here); the plain pixels that it predicts beside the normalised ones are left out; class token and
registers are timm's, at the front; the cross attention is added to what asks, as in any block. The encoder ends in its
norm, as where it is evaluated, and a decoder has one before it predicts; theirs have neither. Their depth is in 0..1,
and its variance is 1e-6 at least; here a floor goes with the distance (``standard_depth``), whatever the unit. Where a
share is more patches than its half has, theirs takes all of them. Pixels without a depth count nowhere. The order of a
sample's patches follows from its own random stream.

To expect: ViT-B/16, ImageNet-1k with pseudo labels, 1600 epochs, with semantic segmentation: 83.3 % fine-tuned (from
memory).
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Bool, Float, Int
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from eyespot.data_pipeline.augment.views import DepthView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_autoencoder import CropScale, MaskedAutoencoder, check_crop, initialise
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patch_masks import random_order
from eyespot.pretrain.images.patchify import patchify, take, unpatchify
from eyespot.pretrain.images.standard_depth import standard_depth
from eyespot.pretrain.networks.encoders import encode_visible, require_vit
from eyespot.pretrain.networks.positions import sincos_positions
from eyespot.pretrain.objective import About, Objective

IMAGE, DEPTH = range(2)
TOKENS = ("cls_token", "reg_token", "mask_token", "kinds")
"""What no weight decay reaches, as the authors mean it; the name by which they spare the kinds matches none."""


class MultiMAE(Objective):
    """Encoder on some patches of an image and of its depth map, a light decoder for either that fills in the rest.

    Args:
        config: the method's numbers.
        encoder: a timm vision transformer.
        image_size: height and width of what it sees, pixels.

    Raises:
        UserError: the encoder has no patches, or the mask leaves none visible or none to be found out.
    """

    picture_rows: ClassVar[tuple[str, ...]] = (
        "image",
        "what the encoder sees of it",
        "filled in",
        "depth",
        "what the encoder sees of it",
        "filled in",
    )

    @dataclass(kw_only=True, slots=True)
    class Config(MaskedAutoencoder.Config):
        """The paper's defaults (section 3 and appendix)."""

        about: ClassVar = About(
            family="depth",
            task="the masked patches of an image and of its depth map, each from both",
            paper="Bachmann et al.",
            year=2022,
            link="arXiv:2204.01678",
            needs="depth maps, a vision transformer",
            expected="ViT-B/16, ImageNet-1k, 1600 epochs, with semantic segmentation, fine-tuned: 83.3 %",
        )

        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.75
        """Share of the patches of both together that the encoder does not see."""
        decoder_dim: Annotated[int, Ge(1)] = 256
        """Channels of either decoder's tokens."""
        decoder_depth: Annotated[int, Ge(0), Le(1000)] = 2
        """Blocks of either decoder, after its cross attention."""
        decoder_heads: Annotated[int, Ge(1)] = 8
        """Attention heads of either decoder."""
        normalize_targets: bool = True
        """Predict the image's pixels normalised by their patch's mean and standard deviation."""
        crop_scale: CropScale = (0.2, 1.0)
        """Smallest and largest area of the random crop, as a share of the image."""
        flip: Annotated[float, Ge(0), Le(1)] = 0.5
        """Probability that the crop is mirrored; 0 where left and right mean something."""

        def __post_init__(self) -> None:
            MaskedAutoencoder.Config.__post_init__(self)
            check_crop(self.crop_scale)

        def build(self, encoder: nn.Module, image_size: int) -> "MultiMAE":
            """MultiMAE around ``encoder``, which must be a timm vision transformer."""
            return MultiMAE(self, encoder, image_size)

    config: Config
    encoder: VisionTransformer  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.encoder = require_vit(encoder, "MultiMAE")  # pyright: ignore[reportIncompatibleVariableOverride]
        projection = self.encoder.patch_embed.proj
        self.patch_size: int = self.encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = self.encoder.patch_embed.grid_size
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_visible = int(2 * self.num_patches * (1 - config.mask_ratio))
        if not 0 < self.num_visible < 2 * self.num_patches:
            raise UserError(
                f"objective.mask_ratio {config.mask_ratio}: nothing {'masked' if self.num_visible else 'visible'} of"
                f" 2 x {self.num_patches} patches; {'raise' if self.num_visible else 'lower'} it"
            )
        self.depth_projection = nn.Conv2d(1, projection.out_channels, projection.kernel_size, projection.stride)
        self.image_decoder, self.depth_decoder = (
            Decoder(config, self.encoder.embed_dim, self.grid, modality, channels * self.patch_size**2)
            for modality, channels in ((IMAGE, 3), (DEPTH, 1))
        )
        initialise(self, [self.image_decoder.mask_token, self.depth_decoder.mask_token], "MultiMAE")
        for part in self.modules():
            if isinstance(part, Attention):  # Q, K and V each by itself, as the authors do and MAE's do not
                for weight in part.qkv.weight.chunk(3):
                    nn.init.xavier_uniform_(weight)
        self.undecayed = tuple(name for name, _ in self.named_parameters() if name.rpartition(".")[2] in TOKENS)
        nn.init.xavier_uniform_(self.depth_projection.weight.view(projection.out_channels, -1))
        nn.init.zeros_(self.depth_projection.bias)  # pyright: ignore[reportArgumentType]

    def views(self) -> ViewSpec:
        """One random resized crop, flipped or not, and its depth map."""
        crop = RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip)
        return ViewSpec(views=(crop, DepthView(of=0)))

    def visible(self, batch: Batch) -> tuple[Int[Tensor, "b v"], Bool[Tensor, "b 2 n"]]:
        """Numbers of the patches that the encoder sees, those of the image before those of depth; and all, whether so.

        The image's patches are 0 to n - 1, those of depth n to 2 n - 1.
        """
        num_patches, num_visible = self.num_patches, self.num_visible
        share = batch.uniforms("multi_mae/share", 1)
        fewest, most = max(0, num_visible - num_patches), min(num_patches, num_visible)
        of_image = (fewest + share * (most - fewest)).round()
        wanted = torch.stack([of_image, num_visible - of_image], dim=1)
        orders = random_order(batch.uniforms("multi_mae/mask", 2 * num_patches).unflatten(1, (2, -1)).flatten(0, 1))
        ranks = orders.argsort(dim=1).unflatten(0, (-1, 2))
        seen = ranks < wanted
        return (~seen).flatten(1).int().argsort(dim=1, stable=True)[:, :num_visible], seen

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}, and of what it is the sum: "image_loss", "depth_loss"."""
        view, depth = batch.views
        depth, known = standard_depth(depth)
        visible, seen = self.visible(batch)
        predicted, of_depth = self.reconstruct(view, depth, visible)
        target, map_target = self.targets(view), patchify(depth, self.patch_size)
        image_loss = _mean_where(~seen[:, IMAGE, :, None], (predicted.to(target.dtype) - target).square())
        counted = ~seen[:, DEPTH, :, None] & patchify(known, self.patch_size)
        depth_loss = _mean_where(counted, (of_depth.to(map_target.dtype) - map_target).abs())
        return {
            "loss": image_loss + depth_loss,
            "image_loss": image_loss.detach().clone(),
            "depth_loss": depth_loss.detach().clone(),
        }

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return encode_visible(require_vit(encoder, "MultiMAE"), images)

    def see(
        self, view: Float[Tensor, "b 3 h w"], depth: Float[Tensor, "b 1 h w"], visible: Int[Tensor, "b v"]
    ) -> Float[Tensor, "b t d"]:
        """What the encoder makes of the visible patches: prefix tokens, then patches in the order given."""
        vit, num_prefix = self.encoder, self.encoder.num_prefix_tokens
        assert vit.pos_embed is not None
        tokens = vit._pos_embed(vit.patch_embed(view))
        of_depth = self.depth_projection(depth.to(view.dtype)).flatten(2).transpose(1, 2)
        patches = torch.cat([tokens[:, num_prefix:], of_depth + vit.pos_embed[:, -self.num_patches :]], dim=1)
        tokens = vit.norm_pre(torch.cat([tokens[:, :num_prefix], take(patches, visible)], dim=1))
        tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
        return vit.norm(tokens)

    def reconstruct(
        self, view: Float[Tensor, "b 3 h w"], depth: Float[Tensor, "b 1 h w"], visible: Int[Tensor, "b v"]
    ) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "b n q"]]:
        """The predicted pixels of all patches, visible ones too: of the image, and of the standardised depth map."""
        tokens = self.see(view, depth, visible)
        return self.image_decoder(tokens, visible), self.depth_decoder(tokens, visible)

    def targets(self, view: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n p"]:
        """What is to be predicted of the image: pixels, normalised per patch where the config says so."""
        patches = patchify(view, self.patch_size)
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def _statistics(self, patches: Float[Tensor, "b n p"]) -> tuple[Tensor | float, Tensor | float]:
        if not self.config.normalize_targets:
            return 0.0, 1.0
        return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "6 n 3 h w"]:
        """Three rows of images and three of depth: originals, what the encoder saw, the rest of it filled in."""
        view, depth = (each[:NUM_PICTURED].float() for each in batch.views)
        depth, _ = standard_depth(depth)
        visible, seen = (each[:NUM_PICTURED] for each in self.visible(batch))
        made = [each.float() for each in self.reconstruct(view, depth, visible)]
        mean, deviation = self._statistics(patchify(view, self.patch_size))
        made[IMAGE] = made[IMAGE] * deviation + mean  # with the true statistics, as the paper's figures do
        rows = []
        for original, filled, shown in zip((view, depth), made, seen[..., None].unbind(1), strict=True):
            patches = patchify(original, self.patch_size)
            for row in (patches, torch.where(shown, patches, 0), torch.where(shown, patches, filled)):
                rows.append(unpatchify(row, self.patch_size, self.grid).expand(-1, 3, -1, -1))
        return torch.stack(rows)


class Decoder(nn.Module):
    """Fills in one of the two: cross attention from its patches to all that was encoded, then blocks.

    Args:
        config: the method's numbers.
        width: channels of what the encoder gives.
        grid: patches above and beside each other.
        modality: IMAGE or DEPTH.
        pixels: numbers of a patch.
    """

    def __init__(self, config: MultiMAE.Config, width: int, grid: tuple[int, int], modality: int, pixels: int) -> None:
        super().__init__()
        dim, norm = config.decoder_dim, partial(nn.LayerNorm, eps=1e-6)
        self.modality, self.num_heads = modality, config.decoder_heads
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.kinds = nn.Parameter(0.02 * torch.randn(1, 2, 1, dim))
        self.register_buffer("positions", sincos_positions(dim, *grid).float(), persistent=False)
        self.query_norm, self.context_norm, self.mlp_norm, self.norm = (norm(dim) for _ in range(4))
        self.query, self.key, self.value, self.attended = (nn.Linear(dim, dim) for _ in range(4))
        self.mlp = Mlp(dim, 4 * dim)
        self.blocks = nn.Sequential(
            *(
                Block(dim, config.decoder_heads, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
                for _ in range(config.decoder_depth)
            )
        )
        self.predict = nn.Linear(dim, pixels)

    def forward(self, tokens: Float[Tensor, "b t d"], visible: Int[Tensor, "b v"]) -> Float[Tensor, "b n p"]:
        """Pixels of all patches of its own kind.

        Args:
            tokens: prefix tokens, then the visible patches.
            visible: their numbers, as ``MultiMAE.visible`` has them.
        """
        tokens = self.embed(tokens)
        prefix, patches = tokens[:, : -visible.shape[1]], tokens[:, -visible.shape[1] :]
        places = (self.kinds + self.get_buffer("positions")).flatten(1, 2)
        everything = self.mask_token.to(tokens.dtype).expand(len(tokens), places.shape[1], -1)
        everything = everything.scatter(1, visible[..., None].expand_as(patches), patches) + places
        x = everything.unflatten(1, (2, -1))[:, self.modality]
        x = x + self._attend(self.query_norm(x), self.context_norm(torch.cat([prefix, take(everything, visible)], 1)))
        x = x + self.mlp(self.mlp_norm(x))
        return self.predict(self.norm(self.blocks(x)))

    def _attend(self, asking: Float[Tensor, "b n d"], context: Float[Tensor, "b t d"]) -> Float[Tensor, "b n d"]:
        parts = (self.query(asking), self.key(context), self.value(context))
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        return self.attended(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _mean_where(counted: Bool[Tensor, "b n _"], errors: Float[Tensor, "b n p"]) -> Float[Tensor, ""]:
    """Of each sample the mean over what counts, 0 where nothing does; of those the mean."""
    number = counted.expand_as(errors).flatten(1).sum(1).clamp(min=1)
    return (torch.where(counted, errors, 0).flatten(1).sum(1) / number).mean()
