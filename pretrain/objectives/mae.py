"""MAE: masked autoencoders are scalable vision learners (He et al. 2021, arXiv:2111.06377).

Loss (section 3): with M the masked patches of an image and t_p the pixels of patch p, normalised by the patch's own
mean and standard deviation,

    L = mean over images and p in M of  mean((decoder(encoder(visible patches))_p - t_p)^2).

What differs from the authors' code: the decoder sees visible tokens first and masked ones after them instead of in
image order, and only masked positions are predicted. A transformer is equivariant to the order of its tokens, each
carries its position embedding, and unmasked predictions never enter the loss, so loss and gradients are the same; it
saves one gather and a quarter of the last layer. The mask comes from each sample's own random stream, so it does not
depend on the rank or the batch. Beside the random one there are the paper's two others (section 4, table 1f): block and
grid.

To expect: ViT-B/16, 1600 epochs of ImageNet-1k: 83.6 % fine-tuned, 68.0 % linear probe; ViT-L/16, 1600 epochs:
85.9 % fine-tuned, 75.8 % linear probe (tables 1, 3 and 11 of the paper).
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import SAID_IF_SET, RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_autoencoder import CropScale, MaskedAutoencoder, check_crop
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patch_masks import (
    NUM_BLOCKS,
    MaskKind,
    block_order,
    check_mask,
    grid_order,
    random_order,
)
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.objective import About


class MAE(MaskedAutoencoder):
    """Encoder on the visible quarter of the patches, a light decoder that fills in the rest."""

    @dataclass(kw_only=True, slots=True)
    class Config(MaskedAutoencoder.Config):
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

        crop_scale: CropScale = (0.2, 1.0)
        """Smallest and largest area of the random crop, as a share of the image."""
        flip: Annotated[float, Ge(0), Le(1)] = 0.5
        """Probability that the crop is mirrored; 0 where left and right mean something (digits, text)."""
        mask: MaskKind = field(default="random", metadata=SAID_IF_SET)
        """random = any patches; block = large rectangles, as in BEiT; grid = three of every four, regularly."""

        def __post_init__(self) -> None:
            MaskedAutoencoder.Config.__post_init__(self)
            check_crop(self.crop_scale)
            check_mask(self.mask, self.mask_ratio)

        def build(self, encoder: nn.Module, image_size: int) -> "MAE":
            """MAE around ``encoder``, which must be a timm vision transformer."""
            return MAE(self, encoder, image_size)

    config: Config
    takes_rotated: ClassVar[bool] = True
    any_bands = True

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size)
        check_mask(config.mask, config.mask_ratio, self.grid)

    def views(self) -> ViewSpec:
        """One random resized crop, flipped or not: "MAE works well with crop-only augmentation" (table 1e)."""
        return ViewSpec(views=(RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip),))

    def mask_order(self, batch: Batch) -> Int[Tensor, "b n"]:
        """An order of each image's patches, by the kind of mask."""
        if self.config.mask == "grid":
            return grid_order(batch.uniforms("mae/grid", 1), self.grid)
        numbers = batch.uniforms("mae/mask", self.num_patches)
        if self.config.mask == "random":
            return random_order(numbers)
        blocks = batch.uniforms("mae/blocks", 4 * NUM_BLOCKS)
        return block_order(blocks, numbers, self.grid, self.num_patches - self.num_visible)

    def patches(self, view: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n p"]:
        """Row by row."""
        return patchify(view, self.patch_size)

    def statistics(self, patches: Float[Tensor, "b n p"]) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
        """A patch's own, over its pixels and their channels."""
        return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n c h w"]:
        """Three rows: originals, what the encoder saw, the reconstructions with the visible patches pasted in."""
        images = batch.views[0][:NUM_PICTURED].float()
        rows = self.filled_in(images, self.mask_order(batch)[:NUM_PICTURED])
        return torch.stack([images, *(unpatchify(row, self.patch_size, self.grid) for row in rows)])
