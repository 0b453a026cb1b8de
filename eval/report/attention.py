"""Where the class token looks in the last block of a vision transformer (Caron et al. 2021, arXiv:2104.14294)."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError


def class_attention(encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b heads rows columns"]:
    """Attention of the class token to each patch, for each head; what went to prefix tokens is left out.

    The weights are those that the block itself computes, before any dropout.

    Args:
        encoder: a timm vision transformer with a class token; left as it was.
        images: (B, 3, H, W).

    Raises:
        UserError: the encoder has no class token, or no attention that shows its weights.
    """
    blocks = getattr(encoder, "blocks", None)
    block = blocks[-1] if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    attention = cast(Any, getattr(block, "attn", None))
    if getattr(encoder, "cls_token", None) is None:
        raise UserError(f"{type(encoder).__name__} has no class token whose attention could be drawn")
    if not (hasattr(attention, "fused_attn") and isinstance(getattr(attention, "attn_drop", None), nn.Module)):
        raise UserError(f"the last block of {type(encoder).__name__} does not show its attention")
    seen: list[Tensor] = []
    hook = attention.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    fused, attention.fused_attn = attention.fused_attn, False  # the fused kernel never has the weights as a matrix
    try:
        with torch.no_grad():
            cast(Any, encoder).forward_features(images)
    finally:
        hook.remove()
        attention.fused_attn = fused
    height, width = cast(Any, encoder).patch_embed.grid_size
    return seen[0][:, :, 0, -height * width :].unflatten(-1, (height, width))
