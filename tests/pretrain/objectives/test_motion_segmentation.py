"""Motion segmentation: the loss against a slow reference, pixel by pixel; what is unknown; frames of clips."""

import math
from dataclasses import replace

import pytest
import torch

from eyespot.data_pipeline.augment.views import Clip, MaskView, RandomView
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.motion_segmentation import MotionSegmentation
from eyespot.pretrain.recipes.motion_segmentation import motion_segmentation_r50_yfcc

COUNT, SIZE, OUT = 3, 16, 4


def make_objective(clip: Clip | None = None) -> MotionSegmentation:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    config = MotionSegmentation.Config(hidden_dim=16, view=RandomView(clip=clip))
    return config.build(encoder, SIZE).double().eval()


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(COUNT, 3, SIZE, SIZE, dtype=torch.float64, generator=generator)
    numbers = torch.tensor([0, 1, 7, 255], dtype=torch.uint8)
    masks = numbers[torch.randint(4, (COUNT, 1, SIZE, SIZE), generator=generator)]
    masks[2] = 255  # of one frame nothing is known
    ids = torch.arange(COUNT)
    return Batch(views=[frames, masks], ids=ids, epochs=ids, labels=ids, seed=0)


def floats(batch: Batch) -> Batch:
    return replace(batch, views=[batch.views[0].float(), batch.views[1]])


def slow_loss(objective: MotionSegmentation, batch: Batch) -> tuple[float, float]:
    losses, both, either = [], 0, 0
    for frame, mask in zip(*batch.views, strict=True):
        logits, errors = objective.logits(frame[None])[0].tolist(), []
        for row in range(OUT):
            for column in range(OUT):
                number, logit = int(mask[0, 4 * row + 2, 4 * column + 2]), logits[row][column]
                if number == 255:
                    continue
                probability = 1 / (1 + math.exp(-logit))
                errors.append(-math.log(probability if number else 1 - probability))
                both += number != 0 and logit > 0
                either += number != 0 or logit > 0
        losses.append(sum(errors) / max(1, len(errors)))
    return sum(losses) / len(losses), both / max(1, either)


def test_the_loss_is_the_slow_reference():
    objective, batch = make_objective(), make_batch()
    with torch.no_grad():
        objective.decoder.last.weight.mul_(20)
        found, (loss, iou) = objective(batch), slow_loss(objective, batch)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-9)
    assert found["iou"].item() == pytest.approx(iou) and 0 < iou < 1


def test_what_is_unknown_changes_nothing():
    objective, batch = make_objective(), make_batch()
    found = objective(batch)["loss"]
    gradients = torch.autograd.grad(found, list(objective.decoder.parameters()))
    other = make_batch()
    other.views[0][2] += 1  # the frame of which nothing is known
    again = objective(other)["loss"]
    assert torch.equal(found, again)
    others = torch.autograd.grad(again, list(objective.decoder.parameters()))
    assert all(map(torch.allclose, gradients, others))


def test_frames_of_a_clip_are_frames():
    single, batch = make_objective(), make_batch()
    clips = make_objective(Clip(COUNT))
    assert clips.views().shapes() == [(COUNT, 3, SIZE, SIZE), (COUNT, 1, SIZE, SIZE)]
    assert clips.views().views[1] == MaskView(of=0, ignored=255), "and shards with another number are refused"
    ids = torch.zeros(1, dtype=torch.int64)
    clip = Batch(views=[view[None] for view in batch.views], ids=ids, epochs=ids, labels=ids, seed=0)
    assert clips(clip)["loss"].item() == pytest.approx(single(batch)["loss"].item(), rel=1e-12)
    assert torch.equal(clips.float().picture(floats(clip)), single.float().picture(floats(batch)))


def test_a_picture_shows_what_is_known():
    objective, batch = make_objective(), make_batch()
    frames, known, said = objective.float().picture(floats(batch))
    shades = {0: -2.0, 1: 2.0, 7: 2.0, 255: 0.0}
    assert torch.allclose(frames, batch.views[0].float())
    for number, shade in shades.items():
        assert (known[(batch.views[1] == number).expand_as(known)] == shade).all()
    assert said.abs().max() <= 2


def test_the_papers_numbers():
    run = motion_segmentation_r50_yfcc()
    assert run.steps * run.data.batch_size == pytest.approx(10 * 1_600_000, rel=1e-4)
    with torch.device("meta"):
        objective = run.objective.build(make_encoder(run.encoder), 224)
    assert objective.out_size == 56
