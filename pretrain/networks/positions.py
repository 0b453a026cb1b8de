"""Position embeddings that are computed, and do not learn."""

import math

import numpy as np
import timm
import torch
from jaxtyping import Float, Float64, Int
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import apply_keep_indices_nlc
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eyespot.data_pipeline.errors import UserError


def fix_positions(vit: timm.models.VisionTransformer | timm.models.Eva, method: str) -> None:
    """Puts the sine-cosine table where the learned position embedding was, and freezes it; prefix tokens have none.

    An encoder whose attention is told the positions otherwise (RoPE) may have none.

    Raises:
        UserError: the encoder has no absolute position embedding, and ``method`` needs one.
    """
    positions = vit.pos_embed
    if positions is None and isinstance(vit, timm.models.Eva):
        return  # attention turns its queries and keys by where they are
    if positions is None:
        raise UserError(f"encoder: {method} needs an absolute position embedding, and this encoder has none")
    height, width = vit.patch_embed.grid_size
    with torch.no_grad():
        positions.zero_()
        positions[0, -height * width :] = sincos_positions(positions.shape[-1], height, width)
    positions.requires_grad_(False)


def require_rotated(encoder: nn.Module, method: str) -> timm.models.Eva:
    """The encoder, if it is a vision transformer of timm's ``Eva`` (EVA-02, DINOv3) whose patches fill the image.

    Raises:
        UserError: its rotations differ between heads and blocks, which masked patches cannot have.
    """
    assert isinstance(encoder, timm.models.Eva)
    if type(encoder.patch_embed) is not PatchEmbed or getattr(encoder, "rope_mixed", False):
        raise UserError(
            f"encoder {type(encoder).__name__}: {method} knows rotations that all heads share; try"
            " vit_small_patch16_dinov3"
        )
    return encoder


def encode_visible_rotated(
    eva: timm.models.Eva, images: Float[Tensor, "b c h w"], visible: Int[Tensor, "b v"] | None = None
) -> Float[Tensor, "b t d"]:
    """``encode_visible`` of an encoder with rotary positions (RoPE, Su et al. 2021, arXiv:2104.09864).

    Args:
        eva: a timm ``Eva``.
        images: (B, 3, H, W).
        visible: (B, V) patch numbers in row-major order; None = all, which equals ``eva.forward_features``.

    Returns:
        (B, P + V, D): the prefix tokens, then the visible patches, each turned as its own place wants.
    """
    tokens, rope = eva._pos_embed(eva.patch_embed(images))
    if visible is not None:
        num_prefix = eva.num_prefix_tokens
        index = (visible + num_prefix)[..., None].expand(-1, -1, tokens.shape[-1])
        if rope is not None:
            rope = apply_keep_indices_nlc(tokens, rope, visible).unsqueeze(1)  # all heads alike
        tokens = torch.cat([tokens[:, :num_prefix], tokens.gather(1, index)], dim=1)
    tokens = eva.norm_pre(tokens)
    for block in eva.blocks:
        if eva.grad_checkpointing:
            tokens = checkpoint(block, tokens, rope=rope, use_reentrant=False)
        else:
            tokens = block(tokens, rope=rope)
    return eva.norm(tokens)


def check_sincos(field: str, dim: int, heads: int = 1) -> None:
    """That ``sincos_positions`` can have so many channels, which as many heads share.

    Raises:
        UserError: a wrong number.
    """
    if dim % 4:
        step = math.lcm(4, heads)
        raise UserError(
            f"{field} {dim}: must be a multiple of 4, for sines and cosines of rows and columns;"
            f" try {math.ceil(dim / step) * step}"
        )


def check_decoder(dim: int, heads: int) -> None:
    """``objective.decoder_dim``, of a decoder with such positions and so many heads.

    Raises:
        UserError: a wrong number.
    """
    if dim % heads:
        raise UserError(f"objective.decoder_dim {dim}: must be a multiple of objective.decoder_heads {heads}")
    check_sincos("objective.decoder_dim", dim, heads)


def sincos_positions(dim: int, height: int, width: int) -> Float64[Tensor, "n dim"]:
    """Fixed sine-cosine position embedding of a grid of patches, row-major (MAE, He et al. 2021, A.1).

    The first half of the channels encodes the column, the second the row, as in the authors' code; each half is
    sin(p w_i), cos(p w_i) with w_i = 10000^(-i / (dim / 4)) (Vaswani et al. 2017). On the meta device, where a
    stranger's settings are measured, it takes no memory either.
    """
    if dim % 4:
        raise UserError(f"position embedding of dim {dim}: must be a multiple of 4")
    if torch.get_default_device().type == "meta":
        return torch.empty((height * width, dim), dtype=torch.float64)
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    angles = [position[:, None] * frequencies for position in (columns, rows)]
    return torch.from_numpy(np.concatenate([part(angle) for angle in angles for part in (np.sin, np.cos)], axis=1))


def sincos_times(dim: int, count: int) -> Float64[Tensor, "n dim"]:
    """Fixed sine-cosine embedding of the times of a clip, to be added to that of places; the first is nothing.

    Time t is sin(t w_i), cos(t w_i) - 1 with w_i = 10000^(-i / (dim / 2)): so an image is the first time of a clip.
    """
    if torch.get_default_device().type == "meta":
        return torch.empty((count, dim), dtype=torch.float64)
    angles = np.arange(count)[:, None] * 10000.0 ** (-np.arange(dim // 2) / (dim / 2))
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles) - 1], axis=1))


def axial_angles(dim: int, height: int, width: int) -> Float[Tensor, "n half"]:
    """By how much each pair of ``dim`` channels is turned at each patch of a grid, row-major: axial RoPE.

    The image is the unit square, 0 in the middle of the first patch and 1 in that of the last. The first dim / 4 pairs
    are turned by the row, the others by the column, 7 times around the whole square the first and 7 / 10,000 times the
    last: frequencies are those of CAPI (Darcet et al. 2025, arXiv:2502.08769, the authors' model.py).

    Args:
        dim: channels of an attention head, a multiple of 4.
        height: patches above each other.
        width: patches beside each other.
    """
    frequencies = 2 * math.pi * 7 * 10000 ** -torch.linspace(0, 1, dim // 4)
    sides = [torch.linspace(0, 1, count) if count > 1 else torch.zeros(1) for count in (height, width)]
    places = torch.cartesian_prod(*sides)
    return (places[:, :, None] * frequencies).flatten(1)


def turned(channels: Float[Tensor, "b h n d"], angles: Float[Tensor, "b 1 n half"]) -> Float[Tensor, "b h n d"]:
    """Channels i and i + d / 2 as a point of the plane, turned by an angle (RoPE, Su et al. 2021, arXiv:2104.09864).

    Args:
        channels: of the queries or keys of each head.
        angles: of each pair, in all heads alike.
    """
    one, other = channels.chunk(2, -1)
    cos, sin = angles.cos().to(channels.dtype), angles.sin().to(channels.dtype)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)
