"""Tokens of both kinds of vision transformer, with holes and stretched coordinates, against slow ones in float64."""

import math

import pytest
import timm
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.families.token_encoders import (
    all_tokens,
    can_stretch,
    encode_with_holes,
    require_tokens,
    stretched_rope,
)
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder

SIZE, SIDE = 16, 4
SMALL = {"img_size": SIZE, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


def make_rotated() -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = timm.create_model("vit_small_patch16_dinov3", **SMALL).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return encoder


def slow_rope(stretch: float, width: int = 8) -> torch.Tensor:
    """A row for each patch: sines, then cosines, of rows' and columns' angles, twice."""
    rows = []
    for i in range(SIDE):
        for j in range(SIDE):
            angles = []
            for place in (i, j):
                coordinate = stretch * (2 * (place + 0.5) / SIDE - 1)
                angles += [2 * math.pi * coordinate / 100 ** (4 * k / width) for k in range(width // 4)]
            rows.append([f(angle) for f in (math.sin, math.cos) for angle in angles * 2])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("stretch", [1.0, 0.6, 1.9])
def test_coordinates_are_stretched_for_each_image(stretch):
    encoder = make_rotated()
    found = stretched_rope(encoder, (SIDE, SIDE), torch.tensor([1.0, stretch], dtype=torch.float64))
    assert found.shape == (2, 1, SIDE**2, 16)
    for own, expected in zip(found[:, 0], (slow_rope(1.0), slow_rope(stretch)), strict=True):
        assert torch.allclose(own, expected, atol=1e-6), "timm keeps periods in float32"


def test_tokens_with_holes_and_stretch_equal_the_slow_ones():
    encoder, stretch = make_rotated(), torch.tensor([0.5, 1.7], dtype=torch.float64)
    images, token = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64), torch.randn(1, 1, 16, dtype=torch.float64)
    hidden = torch.rand(2, SIDE**2, generator=torch.Generator().manual_seed(0)) < 0.4
    found = encode_with_holes(encoder, images, token, hidden, stretch)
    for n in range(2):
        patches = encoder.patch_embed.proj(images[n : n + 1])[0].flatten(1).T
        rows = [token[0, 0] if hidden[n, place] else patches[place] for place in range(SIDE**2)]
        tokens = torch.stack([encoder.cls_token[0, 0], *encoder.reg_token[0], *rows])[None]
        for block in encoder.blocks:
            tokens = block(tokens, rope=slow_rope(stretch[n].item()))
        assert torch.allclose(found[n], encoder.norm(tokens)[0], atol=1e-5)
    unhidden = encode_with_holes(encoder, images, token, torch.zeros_like(hidden), stretch)
    assert torch.allclose(all_tokens(encoder, images, stretch), unhidden, atol=1e-12)
    assert not torch.allclose(all_tokens(encoder, images), unhidden, atol=1e-3), "the stretch is seen"


def test_without_holes_all_tokens_are_timms():
    for encoder in (
        make_rotated(),
        make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4)).double(),
    ):
        images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
        assert torch.equal(all_tokens(encoder, images), encoder.forward_features(images))


def test_what_has_no_class_token_or_other_positions_is_told_apart():
    assert can_stretch(make_rotated())
    assert not can_stretch(make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4)))
    pooled = timm.create_model("vit_small_patch16_rope_224", **SMALL)
    assert not can_stretch(pooled)
    without = timm.create_model("vit_medium_patch16_rope_reg1_gap_256", **SMALL)
    with pytest.raises(UserError, match="IBOT needs a class token, and it has none; try vit_small_patch16_224"):
        require_tokens(without, "IBOT")
    with pytest.raises(UserError, match="plain vision transformer"):
        require_tokens(make_encoder(EncoderConfig(name="test_resnet")), "IBOT")
