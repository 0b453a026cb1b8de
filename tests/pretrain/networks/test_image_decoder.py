"""ImageDecoder: every encoder's feature map becomes an image of its own sample."""

import pytest
import torch
import torch.nn.functional as F

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import EncoderConfig, last_tokens, make_encoder
from eyespot.pretrain.networks.image_decoder import ImageDecoder, grid_of


def slow_norm(maps, norm):
    """One image and one group at a time."""
    rows = []
    for image in maps:
        groups = [
            (group - group.mean()) / (group.var(correction=0) + norm.eps).sqrt()
            for group in image.chunk(norm.num_groups)
        ]
        rows.append(torch.cat(groups) * norm.weight[:, None, None] + norm.bias[:, None, None])
    return torch.stack(rows)


def test_it_is_the_layers_written_out():
    torch.manual_seed(0)
    decoder = ImageDecoder(6, (2, 3), 8, 4, hidden_dim=32).double()
    maps = torch.randn(3, 6, 2, 3, dtype=torch.float64)
    conv, norm, _ = decoder.reduce
    found = slow_norm(torch.einsum("bchw,dc->bdhw", maps, conv.weight[:, :, 0, 0]), norm).clamp(min=0)
    for doubling, (height, width) in zip(decoder.doublings, [(4, 6), (8, 8)], strict=True):
        rows = torch.arange(height) * found.shape[2] // height
        columns = torch.arange(width) * found.shape[3] // width
        found = F.conv2d(found[:, :, rows][:, :, :, columns], doubling.conv.weight, padding=1)
        found = slow_norm(found, doubling.norm).clamp(min=0)
    found = F.conv2d(found, decoder.last.weight, decoder.last.bias, padding=1)
    assert torch.allclose(decoder(maps), found, rtol=1e-12, atol=1e-12)
    assert found.shape == (3, 4, 8, 8)
    assert [doubling.conv.out_channels for doubling in decoder.doublings] == [16, 16]


@pytest.mark.parametrize(
    ("name", "size", "changes"),
    [("test_vit", 16, {"patch_size": 4}), ("test_resnet", 24, {}), ("test_convnext", 40, {})],
)
def test_it_fits_every_encoder(name, size, changes):
    encoder = make_encoder(EncoderConfig(name=name, image_size=size, **changes))
    maps = last_tokens(encoder, torch.randn(2, 3, size, size))[-1].patches
    grid = grid_of(encoder, size)
    assert grid == maps.shape[2:]
    for out_size in (None, size // 2):
        decoder = ImageDecoder(maps.shape[1], grid, size, 5, hidden_dim=12, out_size=out_size)
        assert decoder(maps).shape == (2, 5, out_size or size, out_size or size)


def test_a_look_at_the_encoder_leaves_no_trace():
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=24))
    encoder.layer1.eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    grid_of(encoder, 24)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert encoder.training
    assert not encoder.layer1.training


def test_it_costs_nothing_on_the_meta_device():
    with torch.device("meta"):
        encoder = make_encoder(EncoderConfig(name="vit_small_patch16_224"))
        assert grid_of(encoder, 224) == (14, 14)


def test_a_sample_is_by_itself():
    decoder = ImageDecoder(6, (2, 2), 8, 3, hidden_dim=16).double()
    maps = torch.randn(4, 6, 2, 2, dtype=torch.float64)
    assert torch.allclose(decoder(maps)[1:2], decoder(maps[1:2]), rtol=0, atol=1e-12)


def test_a_feature_map_that_is_too_large_is_refused():
    with pytest.raises(UserError, match="feature map of 8 x 8 is larger than the 4 pixels"):
        ImageDecoder(6, (8, 8), 16, 3, out_size=4)
