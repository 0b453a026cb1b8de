"""Maps at a stride: which of an encoder's they are, and their sum against one made by hand."""

import pytest
import torch

from eyespot.pretrain.networks.dense_maps import DenseFeatures, maps_at_stride
from eyespot.pretrain.networks.encoders import EncoderConfig, last_tokens, make_encoder


@pytest.mark.parametrize(
    ("name", "size", "stride", "shapes"),
    [
        ("test_resnet", 64, 8, [(48, 8, 8), (48, 4, 4), (96, 2, 2)]),
        ("test_resnet", 64, 4, [(32, 16, 16), (48, 8, 8), (48, 4, 4), (96, 2, 2)]),
        ("test_resnet", 64, 32, [(96, 2, 2)]),
        ("test_vit", 160, 8, [(64, 10, 10)]),
        ("test_convnext", 64, 8, [(48, 8, 8), (64, 4, 4), (96, 2, 2)]),
    ],
)
def test_the_maps_of_an_encoder(name, size, stride, shapes):
    encoder = make_encoder(EncoderConfig(name=name, image_size=size))
    found = maps_at_stride(encoder, size, stride)
    assert [each[1:] for each in found] == [each[1:] for each in shapes]
    maps = last_tokens(encoder, torch.zeros(1, 3, size, size), len(found))
    assert [tuple(tokens.patches.shape[1:]) for tokens in maps] == found
    assert encoder.training


def test_no_map_is_fine_enough():
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=64))
    assert maps_at_stride(encoder, 64, 1)[0][1] == max(side for _, side, _ in maps_at_stride(encoder, 64, 1))
    with torch.device("meta"):
        alike = make_encoder(EncoderConfig(name="test_resnet", image_size=64))
    assert maps_at_stride(alike, 64) == maps_at_stride(encoder, 64)


def test_the_sum_of_all_maps():
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=64)).double().eval()
    dense = DenseFeatures(encoder, 64, 5).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    maps = dense.read(encoder, images)
    found, expected = dense(maps), torch.zeros(2, 5, 8, 8, dtype=torch.float64)
    for lateral, tokens in zip(dense.laterals, last_tokens(encoder, images, 3), strict=True):
        part = torch.einsum("oi,bihw->bohw", lateral.weight[:, :, 0, 0], tokens.patches)
        part += lateral.bias[:, None, None]
        expected += part.repeat_interleave(8 // part.shape[2], 2).repeat_interleave(8 // part.shape[3], 3)
    assert dense.grid == (8, 8) and torch.allclose(found, expected, atol=1e-10)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
