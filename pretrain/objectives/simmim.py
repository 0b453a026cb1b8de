"""SimMIM: a simple framework for masked image modeling (Xie et al. 2021, arXiv:2111.09886).

Loss (section 3): squares of an image are hidden, with M their pixels; the encoder sees the whole grid of patches, a
learned token in place of each hidden one, and one linear layer makes of each of its last tokens the pixels that lie
under it,

    L = mean over images, pixels in M and channels of  |linear(encoder(image with holes)) - image|.

The squares may be larger than the encoder's patches, and are, for a colour is easily told from pixels next to it (table
1). As nothing is left out of the grid, encoders that halve it as they go can be trained too: Swin transformers, where a
last token stands for 32 x 32 pixels.

What differs from the authors' code: the number of hidden squares of an image is rounded down as in MAE, theirs up, and
the mean over a batch weighs images alike, which is the same as all have equally many; their ViT has no absolute
position embedding but relative ones, timm's has absolute ones; the encoder is initialised as timm does.

To expect: Swin-B, 800 epochs of ImageNet-1k at 192 pixels: 84.0 % fine-tuned; ViT-B/16, 800 epochs: 83.8 % (tables 6
and 7).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Bool, Float, Int
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_autoencoder import CropScale, check_crop
from eyespot.pretrain.families.token_encoders import encode_with_holes
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patch_masks import random_order
from eyespot.pretrain.images.patchify import patchify, take, unpatchify
from eyespot.pretrain.networks.encoders import mean_features, require_vit
from eyespot.pretrain.objective import About, Objective


class SimMIM(Objective):
    """Encoder on the whole image with holes, one linear layer that fills them in."""

    picture_rows = ("image", "what the encoder sees", "filled in")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's defaults (section 4.1)."""

        about: ClassVar = About(
            family="reconstruction",
            task="the pixels of hidden squares, by one linear layer",
            paper="Xie et al.",
            year=2021,
            link="arXiv:2111.09886",
            needs="a vision transformer, or a Swin transformer",
            expected="Swin-B, ImageNet-1k, 800 epochs, fine-tuned: 84.0 %",
        )

        mask_size: Annotated[int, Ge(1)] = 32
        """Height and width of a hidden square, pixels: a multiple of the encoder's patch."""
        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.6
        """Share of the squares that are hidden."""
        crop_scale: CropScale = (0.67, 1.0)
        """Smallest and largest area of the random crop, as a share of the image."""
        flip: Annotated[float, Ge(0), Le(1)] = 0.5
        """Probability that the crop is mirrored."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            check_crop(self.crop_scale)

        def build(self, encoder: nn.Module, image_size: int) -> "SimMIM":
            """SimMIM around ``encoder``, a timm vision transformer or Swin transformer."""
            return SimMIM(self, encoder, image_size)

    encoder: VisionTransformer | SwinTransformer  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.encoder = self._fit(encoder)  # pyright: ignore[reportIncompatibleVariableOverride]
        patch = cast(int, _patches_of(self.encoder).patch_size[0])
        if config.mask_size % patch or image_size % config.mask_size:
            raise UserError(
                f"objective.mask_size {config.mask_size}: must be a multiple of the encoder's patch of {patch} pixels,"
                f" and divide encoder.image_size {image_size}"
            )
        side = image_size // config.mask_size
        self.grid, self.per_square = (side, side), config.mask_size // patch
        self.num_squares = side * side
        self.num_hidden = int(config.mask_ratio * self.num_squares)
        if not self.num_hidden:
            raise UserError(
                f"objective.mask_ratio {config.mask_ratio}: hides none of {self.num_squares} squares of"
                f" {config.mask_size} pixels; raise it, or lower objective.mask_size"
            )
        width = cast(int, self.encoder.num_features)
        self.stride: int = (
            patch if isinstance(self.encoder, VisionTransformer) else _stride_of(self.encoder, image_size)
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, _patches_of(self.encoder).proj.out_channels))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.head = nn.Linear(width, self.stride**2 * 3)

    def _fit(self, encoder: nn.Module) -> VisionTransformer | SwinTransformer:
        return encoder if isinstance(encoder, SwinTransformer) else require_vit(encoder, "SimMIM")

    def views(self) -> ViewSpec:
        """One random resized crop, flipped or not."""
        view = RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip)
        return ViewSpec(views=(view,))

    def hidden_squares(self, batch: Batch) -> Int[Tensor, "b m"]:
        """Numbers of those of each image that are hidden, row by row."""
        return random_order(batch.uniforms("simmim/mask", self.num_squares))[:, : self.num_hidden]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: mean absolute error of the hidden pixels, in the views' normalised values."""
        squares = self.hidden_squares(batch)
        predicted = patchify(self.filled_in(batch.views[0], squares), self.config.mask_size)
        target = take(patchify(batch.views[0], self.config.mask_size), squares)
        errors = (take(predicted, squares).to(target.dtype) - target).abs()
        self.note_losses(lambda: errors)
        return {"loss": errors.mean()}

    def filled_in(self, view: Float[Tensor, "b 3 h w"], squares: Int[Tensor, "b m"]) -> Float[Tensor, "b 3 h w"]:
        """What the linear layer makes of all last tokens: an image, of which only the hidden squares are learned."""
        rows, columns = self.grid
        hidden = torch.zeros(len(view), self.num_squares, dtype=torch.bool, device=view.device).scatter(
            1, squares, True
        )
        hidden = hidden.view(-1, rows, columns)
        for dim in (1, 2):
            hidden = hidden.repeat_interleave(self.per_square, dim)
        tokens = self.see(view, hidden)
        side = self.image_size // self.stride
        return unpatchify(self.head(tokens), self.stride, (side, side))

    def see(self, view: Float[Tensor, "b 3 h w"], hidden: Bool[Tensor, "b rows columns"]) -> Float[Tensor, "b n d"]:
        """The last tokens of all places, row by row, after the last norm."""
        if isinstance(self.encoder, VisionTransformer):
            tokens = encode_with_holes(self.encoder, view, self.mask_token, hidden.flatten(1))
            return tokens[:, self.encoder.num_prefix_tokens :]
        patches = self.encoder.patch_embed(view)  # (B, rows, columns, D)
        tokens = torch.where(hidden[..., None], self.mask_token.to(patches.dtype), patches)
        return self.encoder.norm(self.encoder.layers(tokens)).flatten(1, 2)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """The last tokens of all places, after the last norm."""
        tokens = cast(Any, encoder).forward_features(images)
        return tokens.flatten(1, -2)[:, getattr(encoder, "num_prefix_tokens", 0) :]

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The mean of the last tokens of all places: a class token learns nothing of its own."""
        return mean_features(self.encoder, images)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """Three rows: originals, what the encoder saw, the hidden squares filled in."""
        images, size = batch.views[0][:NUM_PICTURED].float(), self.config.mask_size
        squares = self.hidden_squares(batch)[: len(images)]
        filled = patchify(self.filled_in(images, squares).float(), size)
        seen = patchify(images, size)
        index = squares[..., None].expand(-1, -1, seen.shape[2])
        rows = [seen.scatter(1, index, values) for values in (torch.zeros_like(seen), filled.gather(1, index))]
        return torch.stack([images, *(unpatchify(row, size, self.grid) for row in rows)])


def _patches_of(encoder: VisionTransformer | SwinTransformer) -> PatchEmbed:
    return cast(PatchEmbed, encoder.patch_embed)


def _stride_of(encoder: SwinTransformer, image_size: int) -> int:
    """Height and width of what one last token stands for, pixels.

    Raises:
        UserError: the last tokens do not fill the image.
    """
    stride = int(encoder.feature_info[-1]["reduction"])
    if image_size % stride:
        raise UserError(
            f"encoder.image_size {image_size}: is no multiple of the {stride} pixels of a last token of"
            f" {type(encoder).__name__}; try {max(1, image_size // stride) * stride}"
        )
    return stride
