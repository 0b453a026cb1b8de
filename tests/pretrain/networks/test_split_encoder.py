"""SplitEncoder: each half sees what the other does not, and eval gets both side by side."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.lab_color import normalized, pixels, to_lab, to_rgb
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, last_tokens, make_encoder
from eyespot.pretrain.networks.split_encoder import SplitEncoder, seen_channels

CONFIGS = {
    "split_test_resnet": EncoderConfig(name="split_test_resnet", image_size=32),
    "split_test_vit": EncoderConfig(name="split_test_vit", image_size=16, patch_size=4),
}


def make_split(name: str) -> SplitEncoder:
    torch.manual_seed(0)
    encoder = make_encoder(CONFIGS[name])
    assert isinstance(encoder, SplitEncoder)
    return encoder.double().eval()


def some_lab(seed: int = 0) -> torch.Tensor:
    """Colours that sRGB can show."""
    draws = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([45.0, -10.0, -10.0])[:, None, None] + draws * torch.tensor([10.0, 20.0, 20.0])[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_each_half_sees_its_own_part(name):
    """Images alike in lightness alone, or in colours alone, give that half of the features alike."""
    encoder, size = make_split(name), CONFIGS[name].image_size
    one, other = (lab[:, :, :size, :size] for lab in (some_lab(0), some_lab(1)))
    light, colored = torch.cat([one[:, :1], other[:, 1:]], dim=1), torch.cat([other[:, :1], one[:, 1:]], dim=1)
    found = [encoder(normalized(to_rgb(lab))).chunk(2, dim=1) for lab in (one, light, colored)]
    assert torch.allclose(found[0][0], found[1][0], atol=1e-9) and torch.allclose(found[0][1], found[2][1], atol=1e-9)
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)
    assert not torch.allclose(found[0][0], found[2][0], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_both_side_by_side(name):
    encoder, size = make_split(name), CONFIGS[name].image_size
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    lab = to_lab(pixels(images))
    parts = (lab[:, :1] - 50) / 25, lab[:, 1:] / 25
    halves = [slow_features(half, part) for half, part in zip(encoder.children(), parts, strict=True)]
    found = encode(encoder, images, 2)
    assert found.keys() >= halves[0].keys()
    for kind, features in halves[0].items():
        assert torch.allclose(found[kind], torch.cat([features, halves[1][kind]], dim=1), atol=1e-12), kind
    assert torch.equal(encoder(images), found["cls"] if "cls" in found else found["mean"])
    maps = last_tokens(encoder, images)[-1].patches
    assert torch.allclose(maps.mean((2, 3)), found["mean"], atol=1e-12)


def slow_features(half, part: torch.Tensor) -> dict[str, torch.Tensor]:
    """By timm's own words."""
    features, maps = half.forward_features(part), half.forward_intermediates(part, indices=2, norm=True)[1]
    earlier = {"mean-2": maps[0].mean((2, 3))}
    if features.ndim == 4:
        return earlier | {"mean": features.mean((2, 3))}
    return earlier | {"mean": features[:, 1:].mean(1), "cls": features[:, 0]}


def test_options_reach_both_halves():
    encoder = make_encoder(EncoderConfig(name="split_resnet18", image_size=32, small_stem=True, checkpointing=True))
    for half, channels in zip(encoder.children(), (1, 2), strict=True):
        assert half.conv1.weight.shape == (64, channels, 3, 3) and half.conv1.stride == (1, 1)
        assert half.grad_checkpointing
    with pytest.raises(UserError, match=r"encoder\.small_stem True: split_test_vit"):
        make_encoder(EncoderConfig(name="split_test_vit", image_size=16, patch_size=4, small_stem=True))


def test_channels_are_those_that_an_encoder_sees():
    for name in ("test_vit", "test_resnet", "test_convnext"):
        for channels in (1, 3, 6):
            assert seen_channels(make_encoder(EncoderConfig(name=name, image_size=32, channels=channels))) == channels
    for config in CONFIGS.values():
        assert seen_channels(make_encoder(config)) == 3
