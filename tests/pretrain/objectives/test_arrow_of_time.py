"""The arrow of time against a slow reference, and its guards: what lies at the border is never seen."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eyespot.data_pipeline.augment.crop_geometry import view_geometry
from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.arrow_of_time import ArrowOfTime
from eyespot.pretrain.recipe_lookup import make_run

SIZE, FRAMES = 24, 3


def make_arrow(**changes) -> ArrowOfTime:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8))
    view = RandomView(clip=Clip(FRAMES))
    config = ArrowOfTime.Config(**({"frame_dim": 4, "hidden_dim": 6, "view": view, "border": 0.1} | changes))
    return config.build(encoder, SIZE).double().eval()


def make_batch(objective: ArrowOfTime, count: int = 3) -> Batch:
    size, generator = objective.views().views[0].size, torch.Generator().manual_seed(1)
    clips = torch.randn(count, FRAMES, 3, size, size, generator=generator, dtype=torch.float64)
    ids = torch.arange(count)
    return Batch(views=[clips], ids=ids, epochs=ids, labels=ids, seed=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_lie_in_memory_as_their_weights_do(layout):
    """DDP warns of any other on each rank; a vision transformer's maps would have them otherwise."""
    objective = make_arrow().to(memory_format=layout)
    objective(make_batch(objective))["loss"].backward()
    weight = objective.reduce.weight
    assert weight.grad is not None and weight.grad.stride() == weight.stride()


def test_loss_and_gradients_equal_the_slow_reference():
    objective = make_arrow()
    batch = make_batch(objective)
    losses, right, rim = [], [], objective.rim
    for clip in batch.views[0]:
        maps = []
        for frame in clip[:, :, rim:-rim, rim:-rim]:
            tokens = objective.encoder.forward_features(frame[None])[0, 1:].T.reshape(-1, 3, 3)
            weight, bias = objective.reduce.weight[:, :, 0, 0], objective.reduce.bias
            maps.append(torch.einsum("od,dyx->oyx", weight, tokens).add(bias[:, None, None]).clamp_min(0))
        for played, is_forwards in ((maps, True), (maps[::-1], False)):
            x = torch.cat(played)[None]
            for layer in (objective.head[0], objective.head[2]):
                x = F.conv2d(x, layer.weight, layer.bias, padding=1).clamp_min(0)
            logit = F.conv2d(x, objective.head[4].weight, objective.head[4].bias).mean()
            chance = 1 / (1 + torch.exp(-logit))
            losses.append(-torch.log(chance if is_forwards else 1 - chance))
            right.append(float((chance > 0.5) == is_forwards))
    slow, found = torch.stack(losses).mean(), objective(batch)
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    assert found["accuracy"].item() == pytest.approx(sum(right) / len(right))
    pairs = zip(right[::2], right[1::2], strict=True)
    assert objective.told(batch).tolist() == pytest.approx([sum(pair) / 2 for pair in pairs])
    parameters = [p for p in objective.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (found["loss"], slow))
    assert all(
        torch.allclose(one, other, atol=1e-12) for one, other in zip(ours, theirs, strict=True) if one is not None
    )


def test_a_border_is_cut_away_from_each_side():
    objective = make_arrow(border=0.125)
    size = objective.views().views[0].size
    assert objective.rim / size == pytest.approx(0.125, abs=0.5 / size) and size == SIZE + 2 * objective.rim
    batch = make_batch(objective)
    before = objective(batch)["loss"]
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[objective.rim : -objective.rim, objective.rim : -objective.rim] = True
    trace = torch.arange(FRAMES, dtype=torch.float64)[None, :, None, None, None]  # grows with time, as a codec's may
    batch.views[0] = torch.where(inside, batch.views[0], trace)
    assert torch.equal(objective(batch)["loss"], before)
    assert make_arrow(border=0.0).views().views[0].size == SIZE


def test_no_crop_shows_the_bars_of_a_film_on_a_screen_of_4_to_3():
    config = ArrowOfTime.Config()
    objective = config.build(make_encoder(EncoderConfig(name="test_resnet", image_size=224)), 224)
    (view,) = objective.views().views
    ids, sizes = np.arange(5000), np.tile(np.int32([240, 320]), (5000, 1))
    place = view_geometry(view, "view0", 0, 0 * ids, ids, sizes)
    rim = objective.rim / view.size * place.shape[:, 0]
    top, bottom = place.start[:, 0] + rim, place.start[:, 0] + place.shape[:, 0] - rim
    assert top.min() >= 30 - 0.5 and bottom.max() <= 210 + 0.5 and view.scale[0] < 0.6


def test_a_video_that_is_the_same_backwards_tells_nothing():
    objective = make_arrow()
    batch = make_batch(objective)
    clips = batch.views[0]
    batch.views[0] = torch.stack([clips[:, 0], clips[:, 1], clips[:, 0]], dim=1)
    found = objective(batch)
    assert found["accuracy"] == 0.5 and found["loss"] >= math.log(2) - 1e-12


def test_the_picture_is_brightest_where_time_runs_forwards():
    objective = make_arrow().float()
    batch = make_batch(objective)
    batch.views[0] = torch.ones_like(batch.views[0]).float() + 0.1 * batch.views[0].float()
    first, last, seen = objective.picture(batch)
    clips = objective.inside(batch.views[0])
    assert torch.equal(first, clips[:, 0]) and torch.equal(last, clips[:, -1])
    light = (seen / clips[:, 1])[:, 0]
    map_ = objective.maps(clips)[:, 0].flatten(1)
    for shown, spoken in zip(light, map_, strict=True):
        row, column = divmod(int(spoken.argmax()), 3)
        cell = shown[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert cell.mean() == max(c.mean() for r in shown.split(8) for c in r.split(8, dim=1))


def test_an_image_has_no_direction():
    with pytest.raises(UserError, match=r"objective\.view\.clip None"):
        ArrowOfTime.Config(view=RandomView())


def test_the_recipe_for_real_videos_has_its_guards():
    run = make_run("arrow_of_time_r50_ucf101")
    assert (run.data.batch_size, run.objective.view.clip.frames, run.objective.border) == (32, 10, 0.18)
    assert run.objective.view.blur == 1.0  # also of those that a codec left sharp
