"""Video colorization: the loss against a slow reference, place by place; gray frames; and the paper's numbers."""

import math
from dataclasses import replace

import pytest
import torch

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.color_clusters import CLUSTERS
from eyespot.pretrain.images.lab_color import normalized, pixels, to_lab, to_rgb
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.video_colorization import VideoColorization
from eyespot.pretrain.recipes.video_colorization import video_colorization_r18_kinetics

COUNT, FRAMES, SIZE, SIDE = 2, 3, 32, 4


def make_objective(**changes) -> VideoColorization:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE))
    view = RandomView(clip=Clip(FRAMES))
    known = {"hidden_dim": 8, "layers": 2, "out_dim": 6, "temperature": 0.7, "view": view} | changes
    return VideoColorization.Config(**known).build(encoder, SIZE).double().eval()


def make_batch(lab: torch.Tensor | None = None) -> Batch:
    if lab is None:  # blocks of colours that come again in other places
        generator = torch.Generator().manual_seed(0)
        ab = torch.tensor(CLUSTERS[:6], dtype=torch.float64)[
            torch.randint(6, (COUNT, FRAMES, SIDE, SIDE), generator=generator)
        ]
        ab = ab.permute(0, 1, 4, 2, 3).repeat_interleave(8, 3).repeat_interleave(8, 4)
        lightness = 40 + 20 * torch.rand(COUNT, FRAMES, 1, SIZE, SIZE, dtype=torch.float64, generator=generator)
        lab = torch.cat([lightness, ab], dim=2)
    clips = normalized(to_rgb(lab.flatten(0, 1))).unflatten(0, lab.shape[:2])
    ids = torch.arange(len(clips))
    return Batch(views=[clips], ids=ids, epochs=ids, labels=ids, seed=0)


def slow_loss(objective: VideoColorization, batch: Batch) -> tuple[float, float, float]:
    """Place by place: who looks where, and which colour comes of it."""
    losses, right, unmoved = [], [], []
    for clip in batch.views[0]:
        lab = to_lab(pixels(clip))
        features = objective.features(lab[None, :, :1])[0].detach()  # frames, places, numbers
        colors = [
            [
                min(range(16), key=lambda name: math.dist(CLUSTERS[name], frame[1:, 8 * row + 4, 8 * column + 4]))
                for row in range(SIDE)
                for column in range(SIDE)
            ]
            for frame in lab
        ]
        for place, true in enumerate(colors[-1]):
            sums, total = [0.0] * 16, 0.0
            for frame in range(FRAMES - 1):
                for other, color in enumerate(colors[frame]):
                    weight = math.exp(float(features[-1, place] @ features[frame, other]) / 0.7)
                    sums[color] += weight
                    total += weight
            losses.append(-math.log(sums[true] / total) if sums[true] else 0.0)
            right.append(max(range(16), key=sums.__getitem__) == true)
            unmoved.append(colors[-2][place] == true)
    return sum(losses) / len(losses), sum(right) / len(right), sum(unmoved) / len(unmoved)


def test_the_loss_is_the_slow_reference():
    objective, batch = make_objective(), make_batch()
    found, (loss, accuracy, unmoved) = objective(batch), slow_loss(objective, batch)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-7)
    assert found["accuracy"].item() == pytest.approx(accuracy)
    assert found["accuracy_unmoved"].item() == pytest.approx(unmoved) and 0 < unmoved < 1


def test_colours_that_no_reference_has_do_not_count():
    batch, objective = make_batch(), make_objective()
    lab = to_lab(pixels(batch.views[0].flatten(0, 1))).unflatten(0, (COUNT, FRAMES))
    lab[:, -1, 1], lab[:, -1, 2] = 50.4, 34.0  # a red that is nowhere else
    assert objective(make_batch(lab))["loss"].item() == 0


def test_features_see_no_colour_and_every_frame():
    objective, batch = make_objective(), make_batch()
    lab = to_lab(pixels(batch.views[0].flatten(0, 1))).unflatten(0, (COUNT, FRAMES))
    other = lab.clone()
    other[:, :, 1:] = other[:, :, 1:].roll(1, dims=1)
    before, after = (
        objective.features(to_lab(pixels(make_batch(each).views[0].flatten(0, 1)))[:, :1].unflatten(0, (COUNT, FRAMES)))
        for each in (lab, other)
    )
    assert torch.allclose(before, after, atol=1e-6)
    changed = lab.clone()
    changed[:, 0, 0] += 10
    moved = (objective.features(changed[:, :, :1]) - before).abs().amax((0, 2, 3))
    assert (moved > 1e-4).all()  # convolutions and norms go over frames
    alone = make_objective(layers=0)
    moved = (alone.features(changed[:, :, :1]) - alone.features(lab[:, :, :1])).abs().amax((0, 2, 3))
    assert moved[0] > 1e-4 and moved[1:].max() < 1e-9


def test_a_picture_keeps_the_lightness():
    objective, batch = make_objective().float(), make_batch()
    batch = replace(batch, views=[batch.views[0].float()])
    before, seen, given, truth = objective.picture(batch)
    assert torch.equal(before, batch.views[0][:, -2]) and torch.equal(truth, batch.views[0][:, -1])
    lightness = to_lab(pixels(truth))[:, 0]
    assert torch.allclose(to_lab(pixels(seen))[:, 0], lightness, atol=0.05)
    assert (to_lab(pixels(given))[:, 0] - lightness).abs().mean() < 3  # what sRGB cannot show is cut off


def test_the_papers_numbers():
    run = video_colorization_r18_kinetics()
    config = run.objective
    assert isinstance(config, VideoColorization.Config) and config.view.clip == Clip(4)
    assert (config.layers, config.out_dim, config.temperature, len(CLUSTERS)) == (5, 64, 1.0, 16)
    assert (run.encoder.image_size, run.data.batch_size, run.steps) == (256, 32, 400_000)
    assert run.optim.lr * run.data.batch_size / 256 == 1e-3 and run.optim.decay_at == (60_000 / 400_000,)
    with torch.device("meta"):
        objective = config.build(make_encoder(run.encoder), 256)
    assert objective.dense.grid == (32, 32) and objective.views().fixed


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (None, r"objective\.view\.clip None: this method learns from videos"),
        (Clip(1), r"objective\.view\.clip\.frames 1: this method needs 2 or more"),
        (Clip(3, pick="near_far"), r"objective\.view\.clip\.pick 'near_far': this method needs 'even'"),
    ],
)
def test_colours_are_copied_between_the_frames_of_a_clip(clip, said):
    with pytest.raises(UserError, match=said):
        VideoColorization.Config(view=RandomView(clip=clip))
