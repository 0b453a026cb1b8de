"""Refresh in the loop: when, of what, the same after a stop anywhere and on any number of ranks."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned import pack_named_digits

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass, make_selection
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.feature_refresh import Refresh
from eyespot.pretrain.loop.initial_weights import first_objective
from eyespot.pretrain.loop.progress import TrainingProgress
from eyespot.pretrain.loop.run_data import open_data
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit
from eyespot.pretrain.watchdog.rank_watch import RankWatch

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
EVERY = 4


def small_run(folder: Path, name: str, **changes) -> Run:
    """Clusters of 64 images, anew before steps 0, 4 and 8 of 10."""
    run = make_run("deepcluster_tiny")
    ids = folder / "ids.txt"
    if not ids.exists():  # ranks come later, and one might read what another is just writing
        ids.write_text("\n".join(str(number) for number in range(5, 1285, 20)))
    run.data.ids, run.data.batch_size, run.run_dir = ids, 32, folder / name
    run.objective.refresh_epochs, run.objective.num_clusters, run.optim.warmup_steps = EVERY * 32 / 64, 8, 1
    run.steps, run.log_every, run.save_every, run.picture_every, run.track = 10, 1, 100, 0, False
    run.device, run.resume = "cpu", "auto"
    for field, value in changes.items():
        setattr(run, field, value)
    return run


def column(run_dir: Path, name: str) -> list:
    return [json.loads(line)[name] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stops", [(EVERY,), (EVERY + 2, 2 * EVERY)])
def test_a_stopped_run_goes_on_to_the_same_bits(stops, digits, tmp_path):
    """At the border, where the refresh is still to come, and between two."""
    for name, until in (("whole", [None]), ("parts", [*stops, None])):
        for stop in until:
            run = small_run(tmp_path, name, stop_after=stop)
            run.data.shards = str(digits)
            assert fit(run, "deepcluster_tiny") == "done"
    agreed = column(tmp_path / "whole", "cluster_agreement")
    assert len({*agreed}) == 3 and agreed[:EVERY] == [0] * EVERY and agreed[EVERY] > 0
    assert column(tmp_path / "parts", "loss") == column(tmp_path / "whole", "loss")
    whole, parts = (checkpoint.read_module(checkpoint.newest(tmp_path / name)) for name in ("whole", "parts"))
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, parts[name])] == []


def refreshed(world: World, shards: Path, folder: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The clusters before the first step, and the features that they were made of."""
    run = small_run(folder, f"rank-{world.rank}")
    run.data.shards = str(shards)
    data, shown = open_data(run, world), []
    objective = first_objective(run, data.sample_ids)
    inner = objective.refresh
    objective.refresh = lambda features: (shown.append(features), inner(features))
    with RankWatch(world, folder, 60.0) as watch, TrainingProgress(Console(quiet=True), 0, 10, False) as progress:
        refresh = Refresh(data, objective, data.loader_spec(objective.views()), watch)
        for step in range(EVERY):  # only the first is due
            refresh(step, progress)
    (features,) = shown
    return objective.assigned, features


def test_features_are_those_of_the_chosen_samples_in_order_on_any_number_of_ranks(digits, tmp_path, on_ranks):
    assigned, features = refreshed(ALONE, digits, tmp_path)
    run = small_run(tmp_path, "run")
    run.data.shards = str(digits)
    data = open_data(run, ALONE)
    ids = data.sample_ids
    objective = first_objective(run, ids)
    size = objective.image_size
    middle = ViewSpec(views=(Refresh.middle(size),))
    with closing(make_pass(data.loader_spec(middle))) as batches, at_rest(objective):
        expected = torch.cat([objective.encode(batch.views[0]) for batch in batches])
    assert torch.allclose(features, expected, atol=1e-5)
    (same, again), (others, nothing) = on_ranks(refreshed, 2, digits, tmp_path)
    assert torch.equal(again, features) and nothing is None
    assert torch.equal(same, assigned) and torch.equal(others, assigned)


def test_a_method_may_ask_once_and_to_be_told_of_some_samples(digits, tmp_path):
    """Every fourth of 64: l-DAE finds components of their patches."""
    run = small_run(tmp_path, "run", objective=make_run("l_dae_tiny").objective)
    run.encoder, run.data.shards, run.objective.basis_images = make_run("l_dae_tiny").encoder, str(digits), 16
    data = open_data(run, ALONE)
    objective, other = (first_objective(run, data.sample_ids) for _ in range(2))
    spec = data.loader_spec(objective.views())
    chosen = replace(spec, views=ViewSpec(views=(Refresh.middle(16),), mean=spec.views.mean, std=spec.views.std))
    with closing(make_selection(chosen, np.arange(5, 1285, 80))) as batches:
        other.refresh(torch.cat([other.refresh_features(batch.views[0]) for batch in batches]))
    calls, inner = [], objective.refresh
    objective.refresh = lambda features: (calls.append(len(features)), inner(features))
    with RankWatch(ALONE, tmp_path, 60.0) as watch, TrainingProgress(Console(quiet=True), 0, 10, False) as progress:
        refresh = Refresh(data, objective, spec, watch)
        for step in range(1000):
            refresh(step, progress)
    assert calls == [16]
    assert torch.equal(objective.basis, other.basis) and torch.equal(objective.mean, other.mean)
    assert not torch.equal(objective.basis, torch.eye(48, 8))


def test_a_method_that_does_not_ask_is_left_alone(digits, tmp_path):
    run = make_run("rotation_tiny")
    run.data.shards = str(digits)
    data = open_data(run, ALONE)
    objective = first_objective(run, data.sample_ids)
    objective.refresh = None
    spec = data.loader_spec(objective.views())
    with RankWatch(ALONE, tmp_path, 60.0) as watch:
        Refresh(data, objective, spec, watch)(0, TrainingProgress(Console(quiet=True), 0, 10, False))


def test_sounds_are_clustered_where_a_method_asks_for_them(tmp_path):
    """What the objective was told are the statistics of the middle of each sound."""
    run = make_run("ambient_sound_tiny")
    run.data.shards, run.data.batch_size, run.run_dir = str(pack_named_digits(tmp_path, 64)), 32, tmp_path / "run"
    run.objective.num_clusters, run.steps, run.log_every, run.save_every, run.picture_every = 4, 2, 1, 2, 0
    run.optim.warmup_steps, run.track, run.device = 1, False, "cpu"
    assert fit(run, "ambient_sound_tiny") == "done"
    trained = checkpoint.read_module(checkpoint.newest(run.run_dir))
    objective = first_objective(run, torch.arange(64))
    shards = ShardFolder(run.data.shards)
    views = ViewSpec(views=(Refresh.middle(24), objective.refresh_view))
    with closing(make_pass(LoaderSpec(shards=shards, views=views, batch_size=16))) as batches:
        told = torch.cat([objective.refresh_features(batch.views[1]) for batch in batches])
    objective.refresh(told)
    for name in ("middle", "weight", "centres"):
        assert torch.equal(trained[name], objective.get_buffer(name)), name
    assert told.std(0)[: objective.kinds["mean"]].max() > 0.05
