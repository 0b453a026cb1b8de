"""The online probe agrees with the probes of eyespot eval, and a run does not notice it."""

import hashlib
import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval import online_probe
from eyespot.eval.protocols import knn, linear
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import normalized_views, open_data
from eyespot.pretrain.monitors.collapse import CollapseMonitor
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def small_run(shards) -> Run:
    run = make_run("mae_tiny")
    run.data.shards, run.device = str(shards), "cpu"
    return run


def make_objective(run: Run) -> Objective:
    torch.manual_seed(0)
    return fresh_objective(run)


def every_feature(run: Run, objective: Objective, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    views = normalized_views(
        ViewSpec(views=(center_view(16),)), run.data, ShardFolder(Path(run.data.shards or "") / "train").manifest
    )
    (batch,) = make_pass(
        LoaderSpec(shards=ShardFolder(Path(run.data.shards or "") / split), views=views, batch_size=2000, num_threads=1)
    )
    with torch.no_grad():
        return objective.eval().encode(batch.views[0]), batch.labels


def relabel(folder, change) -> None:
    manifest = ShardFolder(folder).manifest
    index = np.array(ShardFolder(folder).index)
    index["label"] = change(index["label"])
    np.save(folder / "index.npy", index)
    manifest.index_sha256 = hashlib.sha256((folder / "index.npy").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(manifest.to_json())


def test_accuracies_are_those_of_the_probes_on_all_data(digits):
    run = small_run(digits)
    objective = make_objective(run)
    found = online_probe.OnlineProbe(open_data(run, ALONE))(objective, ALONE)
    train, labels = every_feature(run, objective, "train")
    test, truth = every_feature(run, objective, "test")
    votes = knn.vote(test, train, labels, num_classes=10, ks=(20,))[20]
    answers = linear.predictions(train, labels, test, num_classes=10, penalty=online_probe.PENALTY)
    assert found.keys() == {"online/knn", "online/linear"}
    assert found["online/knn"] == pytest.approx((votes == truth).double().mean().item(), abs=0.006)
    assert found["online/linear"] == pytest.approx((answers == truth).double().mean().item(), abs=0.006)
    assert found["online/linear"] > 0.5


def test_without_a_test_split_it_holds_some_of_train_out(digits, tmp_path):
    shutil.copytree(digits / "train", tmp_path / "train")
    run = small_run(tmp_path)
    probe = online_probe.OnlineProbe(open_data(run, ALONE))
    assert probe(make_objective(run), ALONE)["online/knn"] > 0.5
    train, test = (set(part._ids.tolist()) for part in (probe._samples.train, probe._samples.test))
    assert not train & test and len(train) + len(test) == 1438 and len(test) == pytest.approx(1438 / 5, abs=5)


def _chosen(run):
    data = open_data(run, ALONE)
    return online_probe._choose(data, data.shards, ALONE)


def test_the_subset_is_seeded_and_bounded(digits, monkeypatch):
    monkeypatch.setattr(online_probe, "MAX_TRAIN", 300)
    monkeypatch.setattr(online_probe, "MAX_TEST", 100)
    monkeypatch.setattr(online_probe, "MAX_CLASSES", 4)
    run = small_run(digits)
    chosen, again = (_chosen(run) for _ in range(2))
    assert len(chosen.train._ids) == 300 and len(chosen.test._ids) == 100 and len(chosen.classes) == 4
    assert chosen.train._ids.tolist() == again.train._ids.tolist()
    run.seed = 1
    assert _chosen(run).train._ids.tolist() != chosen.train._ids.tolist()
    answers = chosen.judge(make_objective(run))
    assert all(len(right) == 100 and right.double().mean() > 0.5 for right in answers.values())  # chance: 0.25


def test_labels_that_mean_nothing_give_chance(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "noise")
    for split in ("train", "test"):
        relabel(tmp_path / "noise" / split, lambda labels: np.random.default_rng(5).permutation(labels))
    run = small_run(tmp_path / "noise")
    found = online_probe.OnlineProbe(open_data(run, ALONE))(make_objective(run), ALONE)
    assert all(value == pytest.approx(0.1, abs=0.07) for value in found.values())


def test_what_stands_in_for_a_damaged_sample_may_have_no_label(digits, tmp_path):
    shutil.copytree(digits / "train", tmp_path / "train")

    def all_but_two_classes(labels):
        return np.where(labels < 2, labels, -1)

    relabel(tmp_path / "train", all_but_two_classes)
    index = ShardFolder(tmp_path / "train").index
    sample = int(np.flatnonzero(index["label"] == 0)[0])
    tar = tmp_path / "train" / ShardFolder(tmp_path / "train").manifest.shards[index["tar"][sample]].tar
    with tar.open("r+b") as file:
        file.seek(int(index["offset"][sample]))
        file.write(b"x" * int(index["size"][sample]))
    run = small_run(tmp_path)
    assert online_probe.OnlineProbe(open_data(run, ALONE))(make_objective(run), ALONE)["online/linear"] > 0.9


def test_without_labels_it_says_so_once(digits, tmp_path, caplog):
    shutil.copytree(digits / "train", tmp_path / "train")
    relabel(tmp_path / "train", lambda labels: np.full_like(labels, -1))
    run = small_run(tmp_path)
    probe, objective = online_probe.OnlineProbe(open_data(run, ALONE)), make_objective(run)
    with caplog.at_level(logging.INFO, logger="eyespot"):
        assert probe(objective, ALONE) == probe(objective, ALONE) == {}
    (record,) = caplog.records
    assert "needs labels" in record.message and record.levelno == logging.INFO


def test_broken_weights_give_no_number_and_no_error(digits):
    run = small_run(digits)
    objective = make_objective(run)
    torch.nn.init.constant_(objective.encoder.norm.bias, math.inf)
    assert all(
        math.isnan(value) for value in online_probe.OnlineProbe(open_data(run, ALONE))(objective, ALONE).values()
    )


def test_features_that_never_change_give_a_number(digits):
    run = small_run(digits)
    objective = make_objective(run)
    torch.nn.init.zeros_(objective.encoder.norm.weight)
    assert all(
        value == pytest.approx(0.1, abs=0.05)
        for value in online_probe.OnlineProbe(open_data(run, ALONE))(objective, ALONE).values()
    )


def look(world: World, digits) -> dict[str, float]:
    run = small_run(digits)
    return online_probe.OnlineProbe(open_data(run, world))(make_objective(run), world)


def test_ranks_look_together(digits, on_ranks):
    """The first has the numbers of one process alone, the other none."""
    assert on_ranks(look, 2, digits) == [look(ALONE, digits), {}]


def test_a_run_does_not_notice_its_monitors(digits, tmp_path):
    """Batch norm and drop path in the encoder: with monitors and without, every loss and gradient norm is the same."""
    lines = {}
    for name in ("watched", "alone"):
        run = make_run("simclr_tiny")
        run.data.shards, run.data.batch_size, run.run_dir = str(digits), 32, tmp_path / name
        run.encoder.drop_path = 0.2
        run.steps, run.log_every, run.picture_every, run.track, run.device = 6, 1, 0, False, "cpu"
        watched = name == "watched"
        run.monitor_every = 2 if watched else 0
        assert fit(run, "simclr_tiny", [CollapseMonitor, online_probe.OnlineProbe] if watched else []) == "done"
        lines[name] = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    for watched, alone in zip(lines["watched"], lines["alone"], strict=True):
        assert [watched[key] for key in ("loss", "grad_norm")] == [alone[key] for key in ("loss", "grad_norm")]
        seen = watched.keys() - alone.keys()
        assert len(seen) == (9 if watched["step"] % 2 == 0 else 0) and all("/" in key for key in seen)
