"""Both of timm's vision transformers: all their tokens, and a learned token where a patch is hidden.

``VisionTransformer`` adds a position embedding to its tokens; ``Eva`` (EVA-02, DINOv3) turns queries and keys by where
they are (RoPE, Su et al. 2021, arXiv:2104.09864). DINOv3's coordinates can be stretched (``stretched_rope``).
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models import checkpoint_seq
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import encode_visible, require_vit
from eyespot.pretrain.networks.positions import encode_visible_rotated, require_rotated

TokenEncoder = VisionTransformer | Eva


def require_tokens(encoder: nn.Module, method: str) -> TokenEncoder:
    """The encoder, if it is a plain vision transformer of either kind with a class token.

    Raises:
        UserError: it is another, or has none.
    """
    found = require_rotated(encoder, method) if isinstance(encoder, Eva) else require_vit(encoder, method)
    if found.cls_token is None:
        raise UserError(
            f"encoder {type(found).__name__}: {method} needs a class token, and it has none; try vit_small_patch16_224"
        )
    return found


def can_stretch(encoder: nn.Module) -> bool:
    """Whether its positions are DINOv3's: coordinates of patches between -1 and 1, of rows and of columns."""
    rope: Any = getattr(encoder, "rope", None)
    plain = isinstance(rope, RotaryEmbeddingDinoV3) and rope.grid_indexing == "ij" and not rope.grid_offset
    return plain and rope.normalize_coords == "separate"


def all_tokens(
    encoder: nn.Module, images: Float[Tensor, "b 3 h w"], stretch: Float[Tensor, " b"] | None = None
) -> Float[Tensor, "b t d"]:
    """All tokens after the last norm: prefix tokens first, then patches in row-major order.

    Args:
        encoder: that ``require_tokens`` has seen.
        images: (B, 3, H, W).
        stretch: what the coordinates of each image's patches are multiplied by, where the encoder ``can_stretch``;
            None = 1.
    """
    if isinstance(encoder, Eva):
        if stretch is None:
            return encode_visible_rotated(encoder, images)
        return _encode_rotated(encoder, encoder.patch_embed(images), stretch)
    return encode_visible(cast(VisionTransformer, encoder), images)


def encode_with_holes(
    encoder: nn.Module,
    images: Float[Tensor, "b 3 h w"],
    mask_token: Float[Tensor, "1 1 d"],
    hidden: Bool[Tensor, "b n"],
    stretch: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, "b t d"]:
    """As ``all_tokens``; a learned token stands for each hidden patch, at its place.

    Args:
        encoder: that ``require_tokens`` has seen.
        images: (B, 3, H, W).
        mask_token: what stands for a hidden patch.
        hidden: which patches are, in row-major order.
        stretch: see ``all_tokens``.
    """
    known = cast(Any, encoder)
    patches = known.patch_embed(images)  # (B, N, D), or (B, h, w, D) where views of several sizes are seen
    hidden = hidden.view(patches.shape[:-1])
    tokens = torch.where(hidden[..., None], mask_token.to(patches.dtype), patches)
    if isinstance(encoder, Eva):
        return _encode_rotated(encoder, tokens, stretch)
    tokens = known.norm_pre(known._pos_embed(tokens))
    tokens = checkpoint_seq(known.blocks, tokens) if known.grad_checkpointing else known.blocks(tokens)
    return known.norm(tokens)


def _encode_rotated(eva: Eva, patches: Float[Tensor, "b *n d"], stretch: Float[Tensor, " b"] | None) -> Tensor:
    grid = patches.shape[1:-1] if patches.ndim == 4 else eva.patch_embed.grid_size
    tokens, rope = eva._pos_embed(patches)
    if stretch is not None:
        rope = stretched_rope(eva, (int(grid[0]), int(grid[1])), stretch)
    tokens = eva.norm_pre(tokens)
    for block in eva.blocks:
        if eva.grad_checkpointing:
            tokens = checkpoint(block, tokens, rope=rope, use_reentrant=False)
        else:
            tokens = block(tokens, rope=rope)
    return eva.norm(tokens)


def stretched_rope(
    encoder: nn.Module, grid: tuple[int, int], stretch: Float[Tensor, " b"]
) -> Float[Tensor, "b 1 n two_d"]:
    """Sines and cosines of patches whose coordinates are multiplied by each image's own factor (DINOv3, section 3.2).

    Patch (i, j) of h x w lies at (2 (i + 1/2) / h - 1, 2 (j + 1/2) / w - 1). All heads turn alike.

    Args:
        encoder: that ``can_stretch``.
        grid: rows and columns of patches.
        stretch: factors above 0.
    """
    rope = cast(Any, encoder).rope
    places = (torch.arange(n, device=stretch.device, dtype=rope.periods.dtype) for n in grid)
    coordinates = torch.cartesian_prod(*((2 * place + 1) / n - 1 for place, n in zip(places, grid, strict=True)))
    scaled = coordinates * stretch.to(coordinates.dtype)[:, None, None]
    sines, cosines = rope._get_pos_embed_from_coords(scaled.flatten(0, 1))
    return torch.cat([sines, cosines], dim=-1).view(len(stretch), 1, len(coordinates), -1)
