"""DenoisingTransformer: an objective whose encoder sees noisy images, and whose light decoder makes pixels of them.

What the diffusion models of transformers (DiT, Peebles & Xie 2023, arXiv:2212.09748) and latent denoising autoencoders
share as ways to learn an encoder: a plain vision transformer sees all patches of a noisy image, and a few more blocks
turn its tokens to pixels. A method says what is noisy, what is to be made of it and by what that is measured.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.pretrain.images.patchify import unpatchify
from eyespot.pretrain.networks.encoders import encode_visible, require_vit
from eyespot.pretrain.networks.positions import check_decoder, fix_positions, sincos_positions
from eyespot.pretrain.objective import Objective


class DenoisingTransformer(Objective):
    """Encoder on all patches of a noisy image, a light decoder that makes pixels of its tokens.

    Args:
        config: the method's numbers.
        encoder: a timm vision transformer.
        image_size: height and width of what it sees, pixels.

    Raises:
        UserError: the encoder has no patches, or no absolute positions.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """A decoder as MAE's."""

        decoder_dim: Annotated[int, Ge(1)] = 512
        """Channels of the decoder's tokens."""
        decoder_depth: Annotated[int, Ge(0), Le(1000)] = 8
        """Blocks of the decoder."""
        decoder_heads: Annotated[int, Ge(1)] = 16
        """Attention heads of the decoder."""
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How the clean image is made."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            check_decoder(self.decoder_dim, self.decoder_heads)

    encoder: VisionTransformer  # pyright: ignore[reportIncompatibleVariableOverride]
    decoder_positions: Float[Tensor, "1 n d"]

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        method = type(self).__name__
        self.config, self.image_size = config, image_size
        self.encoder = require_vit(encoder, method)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.patch_size: int = self.encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = self.encoder.patch_embed.grid_size
        self.num_values = 3 * self.patch_size**2
        dim, norm = config.decoder_dim, partial(nn.LayerNorm, eps=1e-6)
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, dim)
        self.register_buffer("decoder_positions", sincos_positions(dim, *self.grid).float()[None], persistent=False)
        self.decoder_blocks = nn.Sequential(
            *(
                Block(dim, config.decoder_heads, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
                for _ in range(config.decoder_depth)
            )
        )
        self.decoder_norm = norm(dim)
        self.decoder_pred = nn.Linear(dim, self.num_values)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        fix_positions(self.encoder, method)

    def views(self) -> ViewSpec:
        """One view."""
        return sized_views(self.image_size, self.config.view)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return encode_visible(require_vit(encoder, type(self).__name__), images)

    def decode(
        self, noisy: Float[Tensor, "b 3 h w"], added: Float[Tensor, "b _ d"] | float = 0.0
    ) -> Float[Tensor, "b n p"]:
        """What is said of each patch's pixels, in fp32 or better.

        Args:
            noisy: what the encoder sees.
            added: to the decoder's patch tokens, before its first block.
        """
        tokens, num_prefix = self.decoder_embed(self.read(self.encoder, noisy)), self.encoder.num_prefix_tokens
        patches = tokens[:, num_prefix:] + self.decoder_positions + added
        tokens = self.decoder_blocks(torch.cat([tokens[:, :num_prefix], patches], dim=1))
        decoded = self.decoder_pred(self.decoder_norm(tokens[:, num_prefix:]))
        return decoded.to(torch.promote_types(decoded.dtype, torch.float32))

    def image_of(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b 3 h w"]:
        """The image that is made of these patches."""
        return unpatchify(patches, self.patch_size, self.grid)
