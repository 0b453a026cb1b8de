"""MAE: masked autoencoders are scalable vision learners (He et al. 2021, arXiv:2111.06377).

Loss (section 3): with M the masked patches of an image and t_p the pixels of patch p, normalised by the patch's own
mean and standard deviation,

    L = mean over images and p in M of  mean((decoder(encoder(visible patches))_p - t_p)^2).

What differs from the authors' code: the decoder sees visible tokens first and masked ones after them instead of in
image order, and only masked positions are predicted. A transformer is equivariant to the order of its tokens, each
carries its position embedding, and unmasked predictions never enter the loss, so loss and gradients are the same; it
saves one gather and a quarter of the last layer. The mask comes from each sample's own random stream, so it does not
depend on the rank or the batch.

To expect: ViT-B/16, 1600 epochs of ImageNet-1k: 83.6 % fine-tuned, 68.0 % linear probe; ViT-L/16, 1600 epochs:
85.9 % fine-tuned, 75.8 % linear probe (tables 1, 3 and 11 of the paper).
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.encoders import encode_visible, require_vit
from eyespot.pretrain.networks.positions import fix_positions, sincos_positions
from eyespot.pretrain.objective import About, Objective


class MAE(Objective):
    """Encoder on the visible quarter of the patches, a light decoder that fills in the rest."""

    picture_rows = ("image", "what the encoder sees", "filled in")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's defaults (table 8)."""

        about: ClassVar = About(
            family="reconstruction",
            task="the pixels of masked patches",
            paper="He et al.",
            year=2021,
            link="arXiv:2111.06377",
            needs="a vision transformer",
            expected="ViT-B/16, ImageNet-1k, 1600 epochs, linear: 68.0 %, fine-tuned: 83.6 %",
        )

        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.75
        """Share of the patches that the encoder does not see."""
        decoder_dim: Annotated[int, Ge(1)] = 512
        """Channels of the decoder's tokens."""
        decoder_depth: Annotated[int, Ge(0), Le(1000)] = 8
        """Blocks of the decoder."""
        decoder_heads: Annotated[int, Ge(1)] = 16
        """Attention heads of the decoder."""
        normalize_targets: bool = True
        """Predict pixels normalised by their patch's mean and standard deviation."""
        crop_scale: tuple[float, float] = (0.2, 1.0)
        """Smallest and largest area of the random crop, as a share of the image."""
        flip: Annotated[float, Ge(0), Le(1)] = 0.5
        """Probability that the crop is mirrored; 0 where left and right mean something (digits, text)."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            if self.decoder_dim % self.decoder_heads:
                raise UserError(
                    f"objective.decoder_dim {self.decoder_dim}: must be a multiple of"
                    f" objective.decoder_heads {self.decoder_heads}"
                )

        def build(self, encoder: nn.Module, image_size: int) -> "MAE":
            """MAE around ``encoder``, which must be a timm vision transformer."""
            return MAE(self, encoder, image_size)

    encoder: VisionTransformer  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.encoder = require_vit(encoder, "MAE")  # pyright: ignore[reportIncompatibleVariableOverride]
        self.patch_size: int = self.encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = self.encoder.patch_embed.grid_size
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_visible = int(self.num_patches * (1 - config.mask_ratio))
        if not 0 < self.num_visible < self.num_patches:
            raise UserError(f"objective.mask_ratio {config.mask_ratio}: nothing visible of {self.num_patches} patches")
        dim = config.decoder_dim
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        positions = sincos_positions(dim, *self.grid).float()
        self.register_buffer("decoder_positions", positions[None], persistent=False)
        self.decoder_blocks = nn.Sequential(
            *(
                Block(dim, config.decoder_heads, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
                for _ in range(config.decoder_depth)
            )
        )
        self.decoder_norm = norm(dim)
        self.decoder_pred = nn.Linear(dim, self.patch_size**2 * 3)
        self._initialise()

    def _initialise(self) -> None:
        """The authors' initialisation: Xavier-uniform matrices, tokens from N(0, 0.02), fixed positions."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        projection = self.encoder.patch_embed.proj.weight
        nn.init.xavier_uniform_(projection.view(projection.shape[0], -1))
        nn.init.normal_(self.mask_token, std=0.02)
        for token in (self.encoder.cls_token, self.encoder.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        fix_positions(self.encoder, "MAE")

    def views(self) -> ViewSpec:
        """One random resized crop, flipped or not: "MAE works well with crop-only augmentation" (table 1e)."""
        return ViewSpec(views=(RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip),))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: mean squared error on the masked patches."""
        order = self.mask_order(batch)
        predicted = self.reconstruct(batch.views[0], order)
        masked = order[:, self.num_visible :]
        target = take(self.targets(batch.views[0]), masked)
        return {"loss": (predicted.to(target.dtype) - target).square().mean()}

    def mask_order(self, batch: Batch) -> Int[Tensor, "b n"]:
        """A random order of each image's patches: the first ``num_visible`` are seen, the rest masked."""
        return batch.uniforms("mae/mask", self.num_patches).argsort(dim=1, stable=True)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return encode_visible(require_vit(encoder, "MAE"), images)

    def reconstruct(self, images: Float[Tensor, "b 3 h w"], order: Int[Tensor, "b n"]) -> Float[Tensor, "b m p"]:
        """The predicted pixels of the masked patches, in the order given: (B, masked, patch_size^2 * 3)."""
        visible = order[:, : self.num_visible]
        tokens = self.decoder_embed(encode_visible(self.encoder, images, visible))
        num_prefix = self.encoder.num_prefix_tokens
        mask_tokens = self.mask_token.to(tokens.dtype).expand(len(images), self.num_patches - self.num_visible, -1)
        patches = torch.cat([tokens[:, num_prefix:], mask_tokens], dim=1)
        patches = patches + take(self.get_buffer("decoder_positions").expand(len(images), -1, -1), order)
        tokens = self.decoder_blocks(torch.cat([tokens[:, :num_prefix], patches], dim=1))
        return self.decoder_pred(self.decoder_norm(tokens[:, num_prefix + self.num_visible :]))

    def targets(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n p"]:
        """What is to be predicted, for all patches: pixels, normalised per patch where the config says so."""
        patches = patchify(images, self.patch_size)
        if not self.config.normalize_targets:
            return patches
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """Three rows: originals, what the encoder saw, the reconstructions with the visible patches pasted in."""
        images = batch.views[0][:NUM_PICTURED].float()
        order = self.mask_order(batch)[:NUM_PICTURED]
        masked = order[:, self.num_visible :]
        patches = patchify(images, self.patch_size)
        predicted = self.reconstruct(images, order).float()
        if self.config.normalize_targets:  # undo it with the true statistics, as the paper's figures do
            hidden = take(patches, masked)
            predicted = predicted * (hidden.var(-1, keepdim=True) + 1e-6).sqrt() + hidden.mean(-1, keepdim=True)
        index = masked[..., None].expand_as(predicted)
        seen = patches.scatter(1, index, torch.zeros_like(predicted))
        filled = patches.scatter(1, index, predicted)
        return torch.stack([images, *(unpatchify(rows, self.patch_size, self.grid) for rows in (seen, filled))])


def take(rows: Float[Tensor, "b n d"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """For each image the rows of the given numbers."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def patchify(images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b n p"]:
    """(B, 3, H, W) to (B, H/size * W/size, size * size * 3): patches row-major, within a patch row, column, channel."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // size, size, width // size, size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


def unpatchify(patches: Float[Tensor, "b n p"], size: int, grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """The inverse of ``patchify``."""
    rows, columns = grid
    pixels = patches.reshape(len(patches), rows, columns, size, size, 3)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, rows * size, columns * size)
