"""Tracked patches: the loss against a slow reference; random negatives, then the nearest; and the paper's numbers."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.tracked_patches import TrackedPatches
from eyespot.pretrain.recipes.tracked_patches import tracked_patches_r50_videos

COUNT, SIZE = 7, 16


def make_objective(**changes) -> TrackedPatches:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    return TrackedPatches.Config(**{"hidden_dim": 16, "out_dim": 8, **changes}).build(encoder, SIZE).double()


def make_batch(count: int = COUNT) -> Batch:
    clips = torch.randn(count, 2, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = 10 + torch.arange(count)
    return Batch(views=[clips], ids=ids, epochs=torch.zeros_like(ids), labels=ids % 3, seed=0)


def slow_loss(objective: TrackedPatches, batch: Batch, hard: bool, num_negatives: int = 4) -> float:
    """Patch by patch."""
    rows = objective.embed(batch)
    patches = [(track, end) for end in (0, 1) for track in range(COUNT)]
    vectors = {
        (track, end): rows[name][track] for end, name in enumerate(("first", "second")) for track in range(COUNT)
    }
    places = batch.uniforms("negatives", 4).double()
    losses = []

    def distance(one: tuple[int, int], other: tuple[int, int]) -> float:
        return 1 - cosine_similarity(vectors[one], vectors[other], dim=0).item()

    for track, end in patches:
        others = [other for other in patches if other[0] != track]
        if hard:
            others.sort(key=lambda other: distance((track, end), other))
        else:  # the first four that follow on the circle
            others.sort(key=lambda other: (places[other[0], 2 + other[1]] - places[track, end]).item() % 1)
        positive = distance((track, end), (track, 1 - end))
        negatives = [distance((track, end), other) for other in others[:num_negatives]]
        losses.append(sum(max(0, positive - each + objective.config.margin) for each in negatives) / num_negatives)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("hard", [False, True])
def test_the_loss_is_the_slow_reference(hard):
    objective, batch = make_objective(hard_after=0.3), make_batch()
    objective.after_step(0.3 if hard else 0.29)
    with torch.no_grad():
        objective.eval()
        expected = slow_loss(objective, batch, hard)
        assert objective(batch)["loss"].item() == pytest.approx(expected, rel=1e-6)
        few = make_objective(num_negatives=2, hard_after=0.0 if hard else 1.0).eval()
        assert few(batch)["loss"].item() == pytest.approx(slow_loss(few, batch, hard, 2), rel=1e-6)


def test_random_negatives_are_other_ones_in_another_epoch_and_for_another_seed():
    objective, batch = make_objective().eval(), make_batch()
    found = {objective(batch)["loss"].item()}
    batch.epochs += 1
    found.add(objective(batch)["loss"].item())
    batch.seed = 1
    found.add(objective(batch)["loss"].item())
    assert len(found) == 3


def test_a_step_that_is_skipped_changes_nothing():
    objective = make_objective(hard_after=0.5)
    objective.after_step(0.9, torch.tensor(False))
    assert not objective.hard
    objective.after_step(0.9, torch.tensor(True))
    assert objective.hard and "hard" in objective.state_dict()


def test_two_tracks_are_enough():
    objective, batch = make_objective(), make_batch(2)
    loss = objective(batch)["loss"]
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is not None for parameter in objective.head.parameters())
    with pytest.raises(UserError, match=r"data\.batch_size 1: "):
        objective.config.check_batch(1)


def test_the_papers_numbers():
    run = tracked_patches_r50_videos()
    config = run.objective
    assert isinstance(config, TrackedPatches.Config)
    assert (config.margin, config.num_negatives, config.out_dim, config.hidden_dim) == (0.5, 4, 1024, 4096)
    assert (run.data.batch_size, run.steps, run.optim.momentum, run.optim.weight_decay) == (100, 400_000, 0.9, 5e-4)
    assert run.optim.lr * 100 / 256 == pytest.approx(1e-3) and run.optim.decay_at[0] * run.steps == 100_000


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (None, r"objective\.view\.clip None: this method learns from videos; set it to Clip\(2\)"),
        (Clip(1), r"objective\.view\.clip\.frames 1: this method needs 2"),
        (Clip(3), r"objective\.view\.clip\.frames 3: a track has two patches; set it to 2"),
        (Clip(2, pick="spread"), r"objective\.view\.clip\.pick 'spread': this method needs 'even'"),
    ],
)
def test_a_track_has_two_patches(clip, said):
    with pytest.raises(UserError, match=said):
        TrackedPatches.Config(view=RandomView(clip=clip))
