"""Split-brain: the loss against a slow reference, pixel by pixel; and no half sees what it is asked for."""

import math

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.lab_color import bins, normalized, pixels, to_lab, to_rgb
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.split_brain import SplitBrain

COUNT, SIZE, OUT = 3, 16, 4


def make_objective() -> SplitBrain:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="split_test_vit", image_size=SIZE, patch_size=4))
    return SplitBrain.Config(hidden_dim=16).build(encoder, SIZE).double().eval()


def make_batch(rgb: torch.Tensor) -> Batch:
    ids = torch.arange(len(rgb))
    return Batch(views=[normalized(rgb)], ids=ids, epochs=ids, labels=ids, seed=0)


def some_rgb() -> torch.Tensor:
    return torch.rand(COUNT, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_loss_is_the_slow_reference():
    objective, rgb, losses = make_objective(), some_rgb(), []
    encoder, places = objective.encoder, bins().tolist()
    for image in to_lab(rgb):
        maps = [
            half.forward_features(part[None])[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
            for half, part in ((encoder.lightness, (image[:1] - 50) / 25), (encoder.color, image[1:] / 25))
        ]
        colors, lightness = objective.to_colors(maps[0])[0], objective.to_lightness(maps[1])[0]
        for row in range(OUT):
            for column in range(OUT):
                level, *color = image[:, 4 * row + 2, 4 * column + 2].tolist()
                distances = [math.dist(color, place) for place in places]
                says, tells = colors[:, row, column].log_softmax(0), lightness[:, row, column].log_softmax(0)
                losses.append(-says[distances.index(min(distances))] - tells[math.floor(level)])
    found = objective(make_batch(rgb))
    assert found["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-6)
    assert found["loss"].item() == pytest.approx((found["loss_colors"] + found["loss_lightness"]).item())


@torch.no_grad()
def test_no_half_sees_what_it_is_asked_for():
    objective = make_objective()
    draws = torch.rand(2, COUNT, 3, SIZE, SIZE, dtype=torch.float64)
    one, other = torch.tensor([45.0, -10.0, -10.0])[:, None, None] + draws * 15
    recolored, relit = torch.cat([one[:, :1], other[:, 1:]], dim=1), torch.cat([other[:, :1], one[:, 1:]], dim=1)
    found = [objective.logits(normalized(to_rgb(lab))) for lab in (one, recolored, relit)]
    assert torch.allclose(found[0][0], found[1][0], atol=1e-8), "colours are told from colours"
    assert torch.allclose(found[0][1], found[2][1], atol=1e-8), "lightness is told from lightness"
    assert not torch.allclose(found[0][0], found[2][0], atol=1e-4)
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-4)


def test_a_picture_shows_both_halves():
    objective, rgb = make_objective().float(), (0.45 + 0.1 * some_rgb()).float()
    with torch.no_grad():
        for decoder in (objective.to_colors, objective.to_lightness):
            decoder.last.weight.zero_()
            decoder.last.bias.zero_()
        objective.to_lightness.last.bias[40] = 100.0  # sure of a lightness of 40.5
    gray, colored, flat, lit, images = objective.picture(make_batch(rgb))
    lab, found = to_lab(rgb), [to_lab(pixels(row)) for row in (gray, colored, flat, lit)]
    assert torch.allclose(found[0][:, 1:], torch.zeros(()), atol=1e-2)
    for row in found[:2]:
        assert torch.allclose(row[:, 0], lab[:, 0], atol=1e-2)
    for row, lightness in zip(found[2:], (50.0, 40.5), strict=True):
        assert torch.allclose(row[:, 1:], lab[:, 1:], atol=1e-2)
        assert torch.allclose(row[:, 0], torch.tensor(lightness), atol=1e-2)
    assert torch.allclose(pixels(images), rgb, atol=1e-5)


def test_the_views_keep_their_normalization():
    assert make_objective().views().fixed


def test_wrong_input_says_what_to_do():
    with pytest.raises(UserError, match="split_brain needs one in two halves; try split_resnet18"):
        SplitBrain.Config().build(make_encoder(EncoderConfig(name="test_vit", image_size=32)), 32)
    with pytest.raises(UserError, match=r"objective\.hidden_dim 0"):
        SplitBrain.Config(hidden_dim=0)
