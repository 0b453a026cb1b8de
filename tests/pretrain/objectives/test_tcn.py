"""Time-contrastive networks against slow references: who belongs together, and both losses."""

import math

import pytest
import torch

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.tcn import TCN, alignment_errors, moment_numbers, spatial_softmax
from eyespot.pretrain.recipe_lookup import make_run

SIZE = 16


def make_tcn(frames: int = 4, **changes) -> TCN:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8))
    clip = Clip(3, pick="near_far") if changes.get("cameras") == 1 else Clip(frames)
    config = TCN.Config(**({"channels": 5, "hidden_dim": 8, "out_dim": 4, "view": RandomView(clip=clip)} | changes))
    return config.build(encoder, SIZE).double().eval()


def make_batch(objective: TCN, ids=(3, 5, 5), epochs=(0, 0, 1), short: int | None = None) -> Batch:
    """Videos, the first of which has so many frames, if a number is given: its last is repeated."""
    generator, clip = torch.Generator().manual_seed(1), objective.config.view.clip
    shape = (len(ids), clip.frames, 3, SIZE, SIZE)
    views = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(objective.config.cameras)]
    for view in views:
        view[0, short:] = view[0, short - 1 : short].clone() if short else view[0]
    ids = torch.tensor(ids)
    return Batch(views=views, ids=ids, epochs=torch.tensor(epochs), labels=ids, seed=0)


def slow_rows(objective: TCN, batch: Batch) -> list[tuple[int, int, int, int, torch.Tensor]]:
    """Of every camera, video and moment: video, epoch, camera, moment and embedding, one by one."""
    found, joined = [], objective.config.joined
    for sample in range(len(batch)):
        for camera, view in enumerate(batch.views):
            maps = objective.read(objective.encoder, view[sample])
            first = torch.nn.functional.conv2d(maps, objective.head.first.weight, objective.head.first.bias, padding=1)
            for moment in range(len(first) - joined + 1):
                frames = first.clamp_min(0)[moment : moment + joined]
                parts = [
                    torch.nn.functional.conv2d(frame[None], objective.head.second.weight[:, :, time], padding=1)[0]
                    for time, frame in enumerate(frames)
                ]
                map_ = (sum(parts) + objective.head.second.bias[:, None, None]).clamp_min(0)
                coordinates = []
                for axis in range(2):
                    for channel in map_:
                        shares = channel.exp() / channel.exp().sum()
                        places = [-1.0, 1.0]  # of a map of two rows and two columns
                        coordinates.append(sum(places[i] * shares.select(axis, i).sum() for i in range(2)))
                row = objective.head.last(torch.stack(coordinates))
                row = row / row.norm() if objective.config.loss == "triplet" else row
                found.append((int(batch.ids[sample]), int(batch.epochs[sample]), camera, moment, row))
    return found


def slow_loss(objective: TCN, batch: Batch) -> torch.Tensor:
    rows, losses, config = slow_rows(objective, batch), [], objective.config

    def equal(one, other) -> bool:
        (first, *_), clip = batch.ids.tolist(), batch.views[0][0]
        own, theirs = (clip[row[3] : row[3] + config.joined] for row in (one, other))
        return one[0] == first and torch.equal(own, theirs)

    def belong(one, other) -> bool | None:
        if one[0] != other[0]:
            return False
        if one[1] != other[1] or one is other:
            return None
        if config.cameras == 2:
            return one[3] == other[3] or (None if equal(one, other) else False)
        kinds = {one[3], other[3]}
        return True if kinds == {0, 1} else False if kinds == {0, 2} and not equal(one, other) else None

    for anchor in rows:
        positives = [row[4] for row in rows if belong(anchor, row) is True]
        negatives = [row[4] for row in rows if belong(anchor, row) is False]
        if not positives:
            continue
        mean = []
        for positive in positives:
            if config.loss == "n_pair":
                terms = [torch.exp(anchor[4] @ negative - anchor[4] @ positive) for negative in negatives]
                mean.append(torch.log(1 + sum(terms)))
                continue
            own = (anchor[4] - positive).square().sum()
            far = sorted((anchor[4] - negative).square().sum() for negative in negatives)
            chosen = next((square for square in far if square > own), far[-1])
            mean.append((own - chosen + config.margin).clamp_min(0))
        loss = torch.stack(mean).mean()
        losses.append(loss + config.norm_weight * anchor[4].square().sum() if config.loss == "n_pair" else loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("loss", ["triplet", "n_pair"])
@pytest.mark.parametrize("short", [None, 1, 2])
@pytest.mark.parametrize("kind", [{"cameras": 2}, {"cameras": 1}, {"cameras": 2, "joined": 2}])
def test_loss_and_gradients_equal_the_slow_reference(loss, kind, short):
    objective = make_tcn(loss=loss, **kind)
    batch = make_batch(objective, short=short)
    fast, slow = objective(batch)["loss"], slow_loss(objective, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-9)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(found, parameters, allow_unused=True) for found in (fast, slow))
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None]
    assert pairs and all(torch.allclose(one, other, rtol=1e-6, atol=1e-9) for one, other in pairs)


def test_both_cameras_show_the_same_frames():
    first, second = make_tcn(frames=4).views().views
    assert (first.clip.stream, second.clip.stream) == (0, 1)
    assert {name: getattr(first.clip, name) for name in ("frames", "stride", "place", "pick")} == {
        name: getattr(second.clip, name) for name in ("frames", "stride", "place", "pick")
    }
    assert len(make_tcn(cameras=1).views().views) == 1


def test_the_one_camera_is_the_one_that_is_asked_for():
    view = RandomView(clip=Clip(3, pick="near_far", stream=1))
    (seen,) = make_tcn(cameras=1, view=view).views().images
    assert seen.clip == view.clip


@pytest.mark.parametrize("joined", [1, 3])
def test_frames_are_embedded_as_moments_are(joined):
    objective = make_tcn(joined=joined).eval()
    batch = make_batch(objective)
    moments = objective.embed(batch)["moments"].chunk(2, dim=1)
    for view, expected in zip(batch.views, moments, strict=True):
        found = objective.embed_frames(view)
        assert found.shape[:2] == view.shape[:2]
        torch.testing.assert_close(found[:, joined - 1 :], expected, rtol=1e-4, atol=1e-5)
        still = objective.embed_frames(view[:, :1].repeat_interleave(4, dim=1))
        torch.testing.assert_close(found[:, 0], still[:, 3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cameras", [1, 2])
def test_its_sizes_are_known_without_its_numbers(cameras):
    with torch.device("meta"):
        objective = make_tcn(cameras=cameras)
    assert objective.head.last[0].weight.is_meta and objective.anchors == make_tcn(cameras=cameras).anchors


def test_the_softmax_finds_a_peak():
    maps = torch.full((1, 1, 5, 3), -50.0)
    maps[0, 0, 4, 1] = 50.0
    assert torch.allclose(spatial_softmax(maps), torch.tensor([[1.0, 0.0]]), atol=1e-6)


def test_the_alignment_error_is_nothing_where_moments_are_found_and_a_third_by_chance():
    moments, numbers = torch.randn(200, 12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12)
    numbers = numbers.expand(200, 12)
    assert (alignment_errors(moments, moments, numbers) == 0).all()
    others = torch.randn(200, 12, 6, generator=torch.Generator().manual_seed(1))
    assert alignment_errors(moments, others, numbers).mean().item() == pytest.approx(1 / 3, abs=0.02)
    late = moments.roll(1, dims=1)
    assert alignment_errors(moments, late, numbers)[:, :-1].mean().item() == pytest.approx(1 / 12)


def test_moments_of_equal_frames_have_one_number_and_any_of_them_is_found():
    clips = [torch.arange(5.0).clamp(max=2)[None, :, None, None, None].expand(1, 5, 3, 2, 2) for _ in range(2)]
    assert moment_numbers(clips, 1).tolist() == [[0, 1, 2, 2, 2]] and moment_numbers(clips, 2).tolist() == [
        [0, 1, 2, 2]
    ]
    other = torch.arange(5.0)[None, :, None, None, None].expand(1, 5, 3, 2, 2)
    assert moment_numbers([clips[0], other], 1).tolist() == [[0, 1, 2, 3, 4]], "one camera sees that they differ"
    rows = torch.tensor([0.0, 1, 2, 2, 2])[None, :, None]
    assert (alignment_errors(rows, rows, moment_numbers(clips, 1)) == 0).all()
    found = make_tcn()(make_batch(make_tcn(), short=1))
    assert found["loss"].isfinite() and 0 <= found["alignment_error"] < 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cameras": 1}, r"objective\.view\.clip\.pick 'even': this method needs 'near_far'"),
        ({"joined": 8}, r"objective\.joined 8: must be below objective\.view\.clip\.frames 8"),
        ({"cameras": 1, "joined": 2, "view": RandomView(clip=Clip(3, pick="near_far"))}, r"objective\.joined 2"),
        ({"view": RandomView()}, r"objective\.view\.clip None"),
    ],
)
def test_frames_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        TCN.Config(**changes)


def test_recipes_have_the_authors_numbers():
    """The configurations of the authors' code; margins in section 4."""
    for name, moments in (("tcn_r50_two_cameras", 32), ("tcn_r50_one_camera", 32 * 3)):
        run = make_run(name)
        assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-4)
        assert run.data.batch_size * run.objective.view.clip.frames == moments
        config = run.objective
        assert (config.margin, config.channels, config.hidden_dim, config.out_dim) == (0.2, 512, 2048, 32)
        assert config.view.clip.stride == 6 and math.isclose(run.optim.betas[1], 0.999)
    several = make_run("tcn_r50_several_frames").objective
    assert (several.loss, several.joined) == ("n_pair", 5)
