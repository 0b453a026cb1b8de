"""PixelTransformer: nothing is known of later pixels; features are the middle's; colours are the nearest ones."""

import pytest
import timm
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.lab_color import normalized
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, last_tokens, make_encoder
from eyespot.pretrain.networks.pixel_transformer import Past, PixelTransformer

SIDE, PIXELS, COLORS = 4, 16, 5


def make_small(**changes) -> PixelTransformer:
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 4, "num_heads": 2, "img_size": 2 * SIDE, "patch_size": 2}
    encoder = PixelTransformer(**sizes | changes, palette=torch.rand(COLORS, 3)).double().eval()
    with torch.no_grad():  # far enough from zero that everything is seen
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return encoder


def some_colors(count: int = 2) -> torch.Tensor:
    return torch.randint(COLORS, (count, PIXELS), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 7, PIXELS - 1])
def test_a_pixel_changes_only_what_is_said_of_later_ones(place):
    encoder, colors = make_small(), some_colors()
    changed = colors.clone()
    changed[:, place] = (colors[:, place] + 1) % COLORS
    one, other = encoder.last(colors), encoder.last(changed)
    assert torch.equal(one[:, : place + 1], other[:, : place + 1])
    for later in range(place + 1, PIXELS):
        assert not torch.allclose(one[:, later], other[:, later], atol=1e-6)


@torch.no_grad()
def test_one_pixel_at_a_time_is_all_at_once():
    encoder, colors = make_small(), some_colors()
    whole, pasts = encoder.last(colors), [Past() for _ in encoder.blocks]
    for place in range(5, PIXELS):
        assert torch.allclose(encoder.following(colors[:, :place], pasts), whole[:, place], atol=1e-12)


@torch.no_grad()
def test_a_block_is_the_formula():
    """Token by token and head by head."""
    block, tokens = make_small().blocks[1], torch.randn(1, 6, 16, dtype=torch.float64)
    found = block(tokens)[0]
    normed = block.norm1(tokens[0])
    query, key, value = (normed @ block.qkv.weight.T + block.qkv.bias).chunk(3, dim=1)
    for place in range(6):
        heads = []
        for part in (slice(0, 8), slice(8, 16)):
            weights = torch.exp(key[: place + 1, part] @ query[place, part] / 8**0.5)
            heads.append((weights / weights.sum()) @ value[: place + 1, part])
        expected = tokens[0, place] + block.proj(torch.cat(heads))
        expected = expected + block.mlp(block.norm2(expected))
        assert torch.allclose(found[place], expected, atol=1e-12)


@torch.no_grad()
def test_features_are_the_middles():
    encoder, images = make_small(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    tokens = torch.cat([encoder.start.expand(2, 1, -1), encoder.embed(encoder.colors(images)[:, :-1])], dim=1)
    tokens = tokens + encoder.positions
    normed = []
    for before, after in zip(encoder.blocks[:2], encoder.blocks[1:3], strict=True):
        tokens = before(tokens)
        normed.append(after.norm1(tokens))
    assert torch.equal(encoder.forward_features(images), normed[1])
    assert torch.equal(encoder(images), normed[1].mean(1))
    found = encode(encoder, images, num_blocks=2)
    assert torch.equal(found["mean"], normed[1].mean(1)) and torch.allclose(found["mean-2"], normed[0].mean(1))
    maps = last_tokens(encoder, images)[-1].patches
    assert torch.equal(maps[:, :, 2, 3], normed[1][:, 2 * SIDE + 3])


def test_colors_are_the_nearest_of_the_mean():
    encoder = make_small()
    rgb = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    found = encoder.colors(normalized(rgb)).tolist()
    for sample in range(2):
        for place in range(PIXELS):
            top, left = place // SIDE * 2, place % SIDE * 2
            mean = rgb[sample, :, top : top + 2, left : left + 2].mean((1, 2))
            distances = [(mean - color).norm().item() for color in encoder.palette]
            assert found[sample][place] == distances.index(min(distances))
    painted = encoder.painted(torch.tensor(found))
    assert torch.equal(painted[1, :, 6, 3], encoder.palette[found[1][3 * SIDE + 1]])


def test_checkpointing_changes_no_gradient():
    encoder, colors = make_small(), some_colors()
    gradients = []
    for enable in (False, True):
        encoder.set_grad_checkpointing(enable)
        gradients.append(torch.autograd.grad(encoder.last(colors).square().sum(), encoder.positions)[0])
    assert torch.equal(*gradients)


def test_it_is_made_by_name():
    config = EncoderConfig(name="test_pixel_transformer", image_size=16, patch_size=2)
    encoder = make_encoder(config)
    assert encoder.side == 8 and encoder.palette.shape == (512, 3)
    assert len(encoder.palette.unique(dim=0)) > 500
    assert encoder(torch.randn(2, 3, 16, 16)).shape == (2, encoder.num_features)
    assert timm.create_model("pixel_transformer_tiny", img_size=96).side == 32
    with pytest.raises(UserError, match=r"image_size 16: .* not 20 x 20"):
        encoder(torch.randn(1, 3, 20, 20))
    with pytest.raises(UserError, match=r"patch_size 3 does not divide img_size 8|patch_size 3: does not divide"):
        make_encoder(EncoderConfig(name="test_pixel_transformer", image_size=8, patch_size=3))
