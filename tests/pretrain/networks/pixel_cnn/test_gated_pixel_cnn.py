"""A gated PixelCNN against the paper's figure, map by map in float64; each number sees those before it and no other."""

import pytest
import timm
import torch
from slow_pixel_cnn import slow_stacks

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.lab_color import normalized
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, last_tokens, make_encoder
from eyespot.pretrain.networks.pixel_cnn.gated_pixel_cnn import GatedPixelCNN

DIM, DEPTH, SIDE = 6, 5, 6


def make_small() -> GatedPixelCNN:
    torch.manual_seed(0)
    encoder = GatedPixelCNN(dim=DIM, depth=DEPTH, kernel_size=3).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return encoder


def some_levels(count: int = 2) -> torch.Tensor:
    return torch.randint(256, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))


def test_each_number_sees_all_before_it_and_none_after():
    """By gradients: no blind spot, and no look at what is asked. Each of the three groups of h is a colour's."""
    encoder = make_small()
    values = encoder.scaled(some_levels(1)).requires_grad_()
    groups = encoder._run(values, DEPTH)[0].unflatten(0, (3, -1)).abs().sum(1)
    places = [(row, column, color) for row in range(SIDE) for column in range(SIDE) for color in range(3)]
    for number, (row, column, color) in enumerate(places):
        (slope,) = torch.autograd.grad(groups[color, row, column], values, retain_graph=True)
        seen = slope[0].permute(1, 2, 0).flatten() != 0
        assert not seen[number:].any(), (row, column, color)
        if not number:
            continue
        assert seen[:number].all(), f"{(row, column, color)} does not see {seen[:number].logical_not().nonzero()}"


@torch.no_grad()
def test_stacks_and_features_are_the_slow_reference():
    encoder, levels = make_small(), some_levels()
    images = normalized(levels.double() / 255)
    assert torch.equal(encoder.levels(images), levels)
    expected = slow_stacks(encoder, levels.double() / 127.5 - 1)
    assert torch.allclose(encoder.last(levels), expected[-1], atol=1e-11)
    assert torch.allclose(encoder.forward_features(images), expected[1], atol=1e-11), "of the middle"
    found = encode(encoder, images, num_blocks=2)
    assert torch.allclose(found["mean"], expected[1].mean((2, 3))) and torch.allclose(
        found["mean-2"], expected[0].mean((2, 3))
    )
    assert torch.allclose(last_tokens(encoder, images)[-1].patches, expected[1], atol=1e-11)


def test_checkpointing_changes_no_gradient():
    encoder, levels, gradients = make_small(), some_levels(), []
    for enable in (False, True):
        encoder.set_grad_checkpointing(enable)
        gradients.append(torch.autograd.grad(encoder.last(levels).square().sum(), encoder.blocks[0].vertical.weight)[0])
    assert torch.equal(*gradients)


def test_it_is_made_by_name():
    encoder = make_encoder(EncoderConfig(name="test_gated_pixel_cnn", image_size=8))
    assert encoder(torch.randn(2, 3, 8, 8)).shape == encoder(torch.randn(2, 3, 12, 12)).shape == (2, 24)
    with torch.device("meta"):
        assert len(timm.create_model("gated_pixel_cnn").blocks) == 20
    with pytest.raises(UserError, match="a PixelCNN has no patches"):
        make_encoder(EncoderConfig(name="test_gated_pixel_cnn", image_size=8, patch_size=2))
