"""A run that goes on from given weights is told when it has lost what these knew."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from relabelled import rewrite_labels
from safetensors.torch import save_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.drift_guard import DEVIATIONS, DriftGuard, paired
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.checkpoints.reader import read_module
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.first_checks import before_folder
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import open_data
from eyespot.pretrain.loop.run_end import TrainingError
from eyespot.pretrain.networks.encoders import make_encoder
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def guarded(digits, tmp_path):
    run = make_run("simclr_tiny")
    run.data.shards, run.run_dir, run.device, run.monitor_every = str(digits), tmp_path / "run", "cpu", 2
    torch.manual_seed(3)
    save_file(make_encoder(run.encoder).state_dict(), tmp_path / "start.safetensors")
    run.start.weights, run.track = tmp_path / "start.safetensors", False
    return run


def test_the_interval_is_that_of_paired_differences():
    now, before = torch.tensor([1, 1, 0, 0, 1, 0]).bool(), torch.tensor([1, 0, 1, 1, 1, 1]).bool()
    change, half = paired(now, before)
    values = [0, 1, -1, -1, 0, -1]
    mean = sum(values) / 6
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 5)
    assert change == pytest.approx(mean)
    assert half == pytest.approx(DEVIATIONS * deviation / math.sqrt(6))
    assert paired(now, now) == (0.0, 0.0)


def test_an_encoder_that_forgets_is_told_of_and_stopped(digits, tmp_path, caplog):
    run = guarded(digits, tmp_path)
    run.run_dir.mkdir()
    data = open_data(run, ALONE)
    torch.manual_seed(0)
    objective, guard = fresh_objective(run), DriftGuard(data)
    with caplog.at_level("INFO", logger="eyespot"):
        guard.begin(objective, ALONE, 0)
        found = guard(objective, ALONE)
        assert (found["drift/knn"], found["drift/linear"]) == (0, 0) and found["online/knn"] > 0.5
        assert "drift is measured from step 0 on: knn " in caplog.text and "fallen" not in caplog.text
        with torch.no_grad():
            for parameter in objective.encoder.parameters():
                parameter.zero_()
        again = DriftGuard(data)  # after a restart: what the first part of the run measured
        again.begin(objective, ALONE, 4)
        assert again(objective, ALONE)["drift/knn"] < -0.3
    assert (
        "from step 0 on: knn" in caplog.text.splitlines()[-2] and "drift: the encoder has fallen below" in caplog.text
    )
    run.stop_on_drift = True
    with pytest.raises(TrainingError, match=r"^stopped by --stop-on-drift: .* at the start \(step 0\): -\d+\.\d \+- "):
        again(objective, ALONE)
    (run.run_dir / "drift.json").write_text("{}")
    with pytest.raises(UserError, match=r"drift\.json: damaged .*; remove it"):
        DriftGuard(data).begin(objective, ALONE, 4)


def test_a_run_ends_before_it_saves_what_has_drifted(digits, tmp_path):
    run = guarded(digits, tmp_path)
    run.stop_on_drift, run.steps, run.data.batch_size, run.save_every, run.picture_every = True, 6, 32, 1, 0
    run.optim.warmup_steps, run.optim.lr = 0, 1e4
    with pytest.raises(TrainingError, match="stopped by --stop-on-drift") as ended:
        fit(run, "simclr_tiny", [DriftGuard])
    saved = sorted(path.name for path in (run.run_dir / "checkpoints").glob("step-*"))
    assert str(ended.value).endswith(f"points; {saved[-1]} is from before")
    assert saved[-1] < f"step-{run.steps:08d}"
    assert json.loads((run.run_dir / "drift.json").read_text())["step"] == 0


@pytest.mark.parametrize(
    ("field", "message"), [("monitor_every", "--monitor-every N"), ("start", "--start.model NAME")]
)
def test_what_nobody_measures_cannot_stop_a_run(field, message, digits, tmp_path):
    run = guarded(digits, tmp_path)
    run.stop_on_drift = True
    if field == "start":
        run.start.weights = None
    else:
        run.monitor_every = 0
    with pytest.raises(UserError, match=rf"stop_on_drift True: nothing measures it; add {message}"):
        before_folder(run, ALONE, None)


def test_the_guard_looks_at_other_shards_than_the_runs_where_it_is_told(digits, tmp_path):
    run = guarded(digits, tmp_path)
    run.start.guard = str(tmp_path / "known")
    shutil.copytree(digits / "train", tmp_path / "known")
    run.run_dir.mkdir()
    data = open_data(run, ALONE)
    torch.manual_seed(0)
    objective, guard = fresh_objective(run), DriftGuard(data)
    guard.begin(objective, ALONE, 0)
    found = guard(objective, ALONE)
    assert found == {"drift/knn": 0, "drift/linear": 0}  # what the run's own samples say, another monitor says
    held = json.loads((run.run_dir / "drift.json").read_text())["right"]["online/knn"]
    num_train = data.shards.manifest.num_samples
    assert abs(len(held) - num_train / 5) < 10  # of that folder a fifth, in place of the run's test split
    run.monitor_every = 0
    with pytest.raises(UserError, match=r"start.guard .*known: nobody looks at it; add --monitor-every N"):
        before_folder(run, ALONE, None)


def test_a_guard_without_labels_is_refused(digits, tmp_path):
    run = guarded(digits, tmp_path)
    shutil.copytree(digits / "train", tmp_path / "unlabelled")
    rewrite_labels(tmp_path / "unlabelled", lambda labels: np.full_like(labels, -1))
    run.start.guard = str(tmp_path / "unlabelled")
    run.run_dir.mkdir()
    data = open_data(run, ALONE)
    with pytest.raises(UserError, match=r"start.guard .*unlabelled: drift is measured on labelled samples"):
        DriftGuard(data).begin(fresh_objective(run), ALONE, 0)


def test_the_encoder_and_its_teacher_wait_for_the_head_and_a_run_goes_on_across_the_border(digits, tmp_path):
    states = {}
    for name, stop in (("whole", 4), ("parts", 1), ("parts", 3), ("parts", 4)):
        run = make_run("byol_tiny")
        run.data.shards, run.run_dir, run.device = str(digits), tmp_path / name, "cpu"
        torch.manual_seed(3)
        start = make_encoder(run.encoder).state_dict()
        save_file(start, tmp_path / "start.safetensors")
        run.start.weights, run.start.freeze_steps, run.track = tmp_path / "start.safetensors", 2, False
        run.steps, run.stop_after, run.data.batch_size, run.save_every = 4, stop, 16, 1
        run.picture_every, run.keep_checkpoints, run.resume = 0, 9, "auto"
        fit(run, "byol_tiny")
        states[name, stop] = read_module(newest(run.run_dir))
    kept = read_module(tmp_path / "whole" / "checkpoints" / "step-00000002")
    learning = {key for key in start if "running" not in key and "batches" not in key}
    for copy in ("encoder.", "teacher_encoder."):
        assert all(torch.equal(kept[copy + key], start[key]) for key in learning)
        moved = [key for key in learning if not torch.equal(states["whole", 4][copy + key], start[key])]
        assert len(moved) > len(learning) // 2
    assert not torch.equal(kept["predictor.0.weight"], states["parts", 1]["predictor.0.weight"])
    assert all(torch.equal(tensor, states["parts", 4][key]) for key, tensor in states["whole", 4].items())
