"""Colorization: the loss against a slow reference, colour by colour; and the encoder sees none of them."""

import math

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.lab_color import normalized, pixels, to_lab, to_rgb
from eyespot.pretrain.networks.encoders import EncoderConfig, last_tokens, make_encoder
from eyespot.pretrain.objectives.colorization import Colorization

COUNT, SIZE, OUT = 3, 16, 4


def make_objective(**changes) -> Colorization:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    return Colorization.Config(hidden_dim=16, **changes).build(encoder, SIZE).double().eval()


def make_batch(images: torch.Tensor | None = None) -> Batch:
    if images is None:
        rgb = torch.rand(COUNT, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        images = normalized(rgb)
    ids = torch.arange(len(images))
    return Batch(views=[images], ids=ids, epochs=ids, labels=ids, seed=0)


def slow_loss(objective: Colorization, batch: Batch) -> float:
    """One pixel at a time; the weights are tested where they are made."""
    bins, weights, losses = objective.names.bins.tolist(), objective.names.weights(0.5).tolist(), []
    for image in batch.views[0]:
        lab = to_lab(pixels(image[None]))[0]
        gray = to_rgb(torch.stack([lab[0], 0 * lab[0], 0 * lab[0]])[None])
        maps = last_tokens(objective.encoder, normalized(gray))[-1].patches
        logits = objective.decoder(maps)[0]
        for row in range(OUT):
            for column in range(OUT):
                color = lab[1:, 4 * row + 2, 4 * column + 2].tolist()
                distances = [math.dist(color, other) for other in bins]
                near = sorted(range(len(bins)), key=lambda number: distances[number])[:5]
                shares = [math.exp(-(distances[number] ** 2) / 50) for number in near]
                says = logits[:, row, column].log_softmax(0)
                error = -sum(share * says[number].item() for share, number in zip(shares, near, strict=True))
                losses.append(weights[near[0]] * error / sum(shares))
    return sum(losses) / len(losses)


def test_the_loss_is_the_slow_reference():
    objective, batch = make_objective(), make_batch()
    for _ in range(2):  # with no colour counted yet, and with those of a step
        with torch.no_grad():
            assert objective(batch)["loss"].item() == pytest.approx(slow_loss(objective, batch), rel=1e-6)
        objective(batch)
        objective.after_step(0.1)
    assert objective.names.seen.sum() == 2 * COUNT * OUT * OUT


def test_the_encoder_sees_no_colour():
    """Two images of the same lightness in different colours get the same answer, but not the same loss."""
    objective = make_objective()
    lightness = 40 + 20 * torch.rand(COUNT, 1, SIZE, SIZE, dtype=torch.float64)
    green, red = (torch.full_like(lightness, a) for a in (-15.0, 15.0))
    images = [normalized(to_rgb(torch.cat([lightness, a, torch.zeros_like(a)], dim=1))) for a in (green, red)]
    found = [to_lab(pixels(image)) for image in images]
    assert torch.allclose(found[0][:, 1], green) and torch.allclose(found[1][:, 1], red)
    with torch.no_grad():
        one, other = (objective.logits(lab[:, :1]) for lab in found)
        losses = [objective(make_batch(image))["loss"].item() for image in images]
    assert torch.allclose(one, other, atol=1e-9)
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


@torch.no_grad()
def test_the_encoder_begins_blind_to_colour():
    """Evaluation shows it colours: turning them changes its features far less than turning the lightness."""
    objective = make_objective()
    torch.manual_seed(0)
    plain = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4)).double().eval()
    rgb = torch.rand(COUNT, 3, SIZE, SIZE, dtype=torch.float64)
    turned = rgb.roll(1, dims=1)

    def change(encoder: torch.nn.Module) -> float:
        one, other, dark = (encoder(normalized(image)) for image in (rgb, turned, 1 - rgb))
        return ((one - other).norm() / (one - dark).norm()).item()

    assert change(objective.encoder) < 0.3 * change(plain)
    weights, before = (encoder.patch_embed.proj.weight for encoder in (objective.encoder, plain))
    assert weights.square().mean().sqrt().item() == pytest.approx(before.square().mean().sqrt().item(), rel=0.1)


def test_looking_and_skipped_steps_count_no_colours():
    objective, batch = make_objective(), make_batch()
    with torch.no_grad():
        objective(batch)
    objective.after_step(0.1)
    assert objective.names.seen.sum() == 0
    objective(batch)
    objective.after_skip()
    objective.after_step(0.2)
    assert objective.names.seen.sum() == 0


def test_a_picture_keeps_the_lightness():
    objective = make_objective().float()
    with torch.no_grad():
        objective.decoder.last.bias.zero_()
        objective.decoder.last.weight.zero_()  # every colour alike: the mean of all bins
    rgb = 0.45 + 0.1 * torch.rand(COUNT, 3, SIZE, SIZE)
    seen, given, images = objective.picture(make_batch(normalized(rgb)))
    lightness = to_lab(rgb)[:, 0]
    assert torch.allclose(to_lab(pixels(seen))[:, 0], lightness, atol=1e-2)
    assert torch.allclose(to_lab(pixels(seen))[:, 1:], torch.zeros(()), atol=1e-2)
    lab, mean = to_lab(pixels(given)), objective.names.bins.mean(0)
    assert torch.allclose(lab[:, 0], lightness, atol=1e-2)
    assert torch.allclose(lab[:, 1:], mean[:, None, None].expand_as(lab[:, 1:]), atol=1e-2)
    assert torch.allclose(pixels(images), rgb, atol=1e-5)


def test_the_views_keep_their_normalization():
    assert make_objective().views().fixed


@pytest.mark.parametrize("changes", [{"balance": 1.5}, {"temperature": 0.0}, {"hidden_dim": 0}])
def test_wrong_numbers_name_their_field(changes):
    (name, value) = next(iter(changes.items()))
    with pytest.raises(UserError, match=rf"objective\.{name} {value}"):
        Colorization.Config(**changes)
