"""Rotation: the labels are right, and nothing but the content tells them."""

import pytest
import torch
import torch.nn.functional as F

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.rotations import TURNS, rotated
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.rotation import Rotation

COUNT, SIZE = 3, 24


def make_batch(images: torch.Tensor) -> Batch:
    ids = torch.arange(len(images))
    return Batch(views=[images], ids=ids, epochs=ids, labels=ids, seed=0)


def make_rotation() -> Rotation:
    torch.manual_seed(0)
    return Rotation.Config().build(make_encoder(EncoderConfig(name="test_resnet")), SIZE).double()


def test_loss_and_gradients_equal_the_slow_reference():
    objective, images = make_rotation().eval(), torch.randn(COUNT, 3, SIZE, SIZE, dtype=torch.float64)
    losses = []
    for image in images:
        for turns in range(TURNS):
            pixels = image
            for _ in range(turns):  # a quarter counterclockwise: the right edge becomes the top
                pixels = pixels.transpose(1, 2).flip(1)
            logits = objective.head(objective.encoder(pixels[None]))[0]
            losses.append(logits.exp().sum().log() - logits[turns])
    slow, fast = torch.stack(losses).mean(), objective(make_batch(images))["loss"]
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    parameters = list(objective.parameters())
    for ours, theirs in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True):
        assert (ours - theirs).abs().max() <= 1e-10


def test_an_image_without_a_direction_tells_nothing():
    """Of rings all four turns look the same, so no encoder can beat chance: borders and order give nothing away."""
    objective = make_rotation().eval()
    place = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    rings = (place[:, None] ** 2 + place**2).sqrt().cos().expand(COUNT, 3, SIZE, SIZE)
    turned, _ = rotated(rings)
    logits = objective.head(objective.encode(turned)).view(TURNS, COUNT, TURNS)
    assert torch.allclose(logits, logits[:1].expand_as(logits), rtol=0, atol=1e-12)
    best = F.cross_entropy(logits.flatten(0, 1).mean(0).expand(TURNS, -1), torch.arange(TURNS)).item()
    assert objective(make_batch(rings))["loss"].item() == pytest.approx(best, abs=1e-9)


def test_a_picture_shows_image_answer_and_truth():
    objective = make_rotation()
    images = torch.randn(COUNT, 3, SIZE, SIZE, dtype=torch.float64)
    turned, righted, upright = objective.picture(make_batch(images))
    assert torch.equal(upright, images.float())
    said = objective.head(objective.encode(turned.double())).argmax(1).tolist()
    for number, (given, answered) in enumerate(zip(turned, righted, strict=True)):
        assert torch.equal(torch.rot90(given, -number, (1, 2)), upright[number])
        assert torch.equal(torch.rot90(answered, said[number], (1, 2)), given)
