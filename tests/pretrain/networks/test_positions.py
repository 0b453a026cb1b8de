"""Positions that are computed: which is which, and that they do not learn."""

import math

import pytest
import timm
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.positions import (
    axial_angles,
    check_decoder,
    check_sincos,
    encode_visible_rotated,
    fix_positions,
    require_rotated,
    sincos_positions,
    sincos_times,
    turned,
)


def test_positions_tell_rows_from_columns():
    table = sincos_positions(8, 2, 3).reshape(2, 3, 8)
    assert (table[0, :, 4:] == table[0, :1, 4:]).all()  # the second half is the row
    assert (table[:, 0, :4] == table[:1, 0, :4]).all()  # the first half is the column
    assert len({tuple(row) for row in table.reshape(6, 8).tolist()}) == 6


def test_channels_that_rows_and_columns_cannot_share_name_their_field():
    check_sincos("objective.decoder_dim", 36, 3)
    with pytest.raises(UserError, match=r"^objective\.decoder_dim 33: must be a multiple of 4, .*; try 36$"):
        check_sincos("objective.decoder_dim", 33, 3)
    with pytest.raises(UserError, match=r"^dim 10: must be a multiple of 4, .*; try 20$"):
        check_sincos("dim", 10, 5)
    with pytest.raises(
        UserError, match=r"^objective\.decoder_dim 36: must be a multiple of objective\.decoder_heads 5$"
    ):
        check_decoder(36, 5)


def test_on_the_meta_device_they_take_no_memory():
    with torch.device("meta"):
        table = sincos_positions(10**9, 1000, 1000)
    assert table.is_meta and table.dtype == sincos_positions(4, 1, 1).dtype == torch.float64
    assert table.shape == (10**6, 10**9)


def test_fixed_positions_follow_the_prefix_and_do_not_learn():
    config = EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8)
    vit = make_encoder(config)
    fix_positions(vit, "a test")
    assert not vit.pos_embed.requires_grad
    assert (vit.pos_embed[0, 0] == 0).all()
    assert torch.equal(vit.pos_embed[0, 1:], sincos_positions(192, 4, 4).float())
    vit.pos_embed = None
    with pytest.raises(UserError, match="a test needs an absolute position embedding"):
        fix_positions(vit, "a test")


def test_times_follow_the_formula_and_the_first_is_nothing():
    table = sincos_times(6, 3)
    assert (table[0] == 0).all()
    for time, row in enumerate(table.tolist()):
        angles = [time * 10000 ** (-place / 3) for place in range(3)]
        assert row == pytest.approx([*map(math.sin, angles), *(math.cos(angle) - 1 for angle in angles)])
    with torch.device("meta"):
        assert sincos_times(10**9, 10**6).is_meta


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_visible_patches_keep_the_rotations_of_their_places(name):
    """Against all patches, of which attention may look at the visible ones only."""
    patch = 14 if "14" in name else 16
    torch.manual_seed(0)
    options = dict(img_size=3 * patch, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    eva = timm.create_model(name, **options).eval()
    images, visible = torch.randn(2, 3, 3 * patch, 3 * patch), torch.tensor([7, 2, 4])
    prefix = eva.num_prefix_tokens
    seen = torch.zeros(prefix + 9, dtype=torch.bool)
    seen[:prefix] = seen[prefix + visible] = True
    with torch.no_grad():
        assert torch.equal(encode_visible_rotated(eva, images), eva.forward_features(images))
        expected = eva.forward_features(images, attn_mask=seen.expand(1, 1, prefix + 9, -1))
        found = encode_visible_rotated(eva, images, visible.expand(2, -1))
        eva.set_grad_checkpointing()
        again = encode_visible_rotated(eva, images, visible.expand(2, -1))
    rows = torch.cat([torch.arange(prefix), prefix + visible])
    torch.testing.assert_close(found, expected[:, rows], rtol=1e-4, atol=1e-5)
    assert torch.equal(found, again)


def test_rotations_of_each_head_are_refused():
    eva = timm.create_model("vit_small_patch16_rope_mixed_224", img_size=32, depth=1, num_classes=0)
    with pytest.raises(UserError, match="MAE knows rotations that all heads share; try vit_small_patch16_dinov3"):
        require_rotated(eva, "MAE")


def test_channels_are_turned_by_row_and_column_and_only_the_distance_matters():
    """Pair by pair; and a query and a key that are moved together find each other as before."""
    angles = axial_angles(16, 3, 5).double()
    for place in range(15):
        row, column = place // 5 / 2, place % 5 / 4
        slow = [2 * math.pi * 7 * 10000 ** (-i / 3) * side for side in (row, column) for i in range(4)]
        assert torch.allclose(angles[place], torch.tensor(slow, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    query, key = torch.randn(2, 1, 1, 15, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    query, key = (part[:, :, :1].expand_as(part) for part in (query, key))
    found = (turned(query, angles[None, None]) @ turned(key, angles[None, None]).mT)[0, 0]
    assert torch.allclose(found[0, 6], found[7, 13], rtol=1e-5) and not torch.allclose(found[0, 6], found[0, 7])
    assert torch.allclose(found.diagonal(), (query * key).sum(-1)[0, 0])
    assert axial_angles(8, 1, 1).tolist() == [[0.0] * 4]
