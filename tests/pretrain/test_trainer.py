"""The loop on real digits: exact resume, exact distribution, clean stops, and what it says when things go wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.run_end import TrainingError
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.trainer import fit
from eyespot.pretrain.watchdog.time_breakdown import PARTS

pytestmark = pytest.mark.slow

EYESPOT = str(Path(sys.executable).parent / "eyespot")
STEPS = 20


def small_run(shards: Path, run_dir: Path, **changes) -> Run:
    run = make_run("mae_tiny")
    run.data.shards, run.data.batch_size, run.run_dir = str(shards), 24, run_dir
    run.optim.lr, run.optim.warmup_steps, run.optim.ema = 5e-3, 2, 0.5
    run.steps, run.log_every, run.save_every, run.picture_every, run.track = STEPS, 1, 5, 0, False
    run.device = "cpu"
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def flags(shards: Path, run_dir: Path, *more: str) -> list[str]:
    """The same run as ``small_run`` on the command line."""
    sizes = ["--data.batch-size", "24", "--steps", str(STEPS), "--log-every", "1", "--save-every", "5"]
    sizes += ["--optim.lr", "5e-3", "--optim.warmup-steps", "2", "--optim.ema", "0.5"]
    places = ["--data.shards", str(shards), "--run-dir", str(run_dir), "--picture-every", "0"]
    return ["pretrain", "mae_tiny", *places, *sizes, "--no-track", "--device", "cpu", *more]


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def column(run_dir: Path, name: str) -> list:
    return [line[name] for line in lines(run_dir)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in checkpoint.newest(run_dir).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def go_on(shards: Path, run_dir: Path, engine: str, stop_after: int) -> None:
    """What each rank does."""
    name, _, stage = engine.partition(" ")
    run = small_run(shards, run_dir, engine=name, stop_after=stop_after, resume="auto")
    run.deepspeed.stage = int(stage or 2)
    torch.set_num_threads(1)
    sys.exit(fit(run, "mae_tiny") != "done")


def go_on_to_the_end(start_ranks, ranks: int, shards: Path, run_dir: Path) -> None:
    processes = start_ranks(go_on, ranks, shards, run_dir, "ddp", STEPS)
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * ranks


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory) -> Path:
    """The run that nothing interrupts: one process, two micro-batches per step."""
    run = small_run(digits, tmp_path_factory.mktemp("whole") / "run")
    run.data.accumulate = 2
    torch.set_num_threads(1)
    assert fit(run, "mae_tiny") == "done"
    return run.run_dir


def test_it_learns_and_says_so(whole):
    losses = column(whole, "loss")
    assert column(whole, "step") == list(range(1, STEPS + 1))
    assert losses[-1] < 0.8 * losses[0]
    assert column(whole, "samples_seen") == [24 * step for step in range(1, STEPS + 1)]
    last = lines(whole)[-1]
    expected = {"lr", "grad_norm", "sample_digest", "images_per_second", "data_wait_share", "peak_memory_gb", "epoch"}
    assert expected <= last.keys()
    assert sum(last[f"time_share/{part}"] for part in PARTS) == pytest.approx(1, abs=1e-4)
    assert last["time_share/forward"] > 0 and last["time_share/backward"] > 0
    record = json.loads((whole / "run.json").read_text())
    assert record["run"]["data"]["batch_size"] == 24
    assert len(record["manifest_sha256"]) == 64
    assert "done" in (whole / "logs" / "rank-0.log").read_text().splitlines()[-1]
    kept = [checkpoint.read_module(checkpoint.newest(whole), f"model.{name}.") for name in ("encoder", "averaged")]
    far = [(kept[0][name] - average).norm() / average.norm() for name, average in kept[1].items() if "weight" in name]
    assert kept[0].keys() == kept[1].keys() and 0 < max(far) < 0.1  # half of the average is the last step's


def test_a_run_in_lanes_goes_on_with_those_that_it_began_with(digits, tmp_path):
    """In other micro-batches, from a checkpoint and from the beginning; run.json says by which they were dealt."""
    runs = [small_run(digits, tmp_path / name, steps=6, save_every=2) for name in ("whole", "parts", "again")]
    for run in runs:
        run.data.lanes, run.data.accumulate = 4, 3
    assert fit(runs[0], "mae_tiny") == "done"
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["lane_frame"] == 8
    for run, first in ((runs[1], 3), (runs[2], 1)):
        run.stop_after = first
        assert fit(run, "mae_tiny") == "done"
        for checkpoint_folder in (run.run_dir / "checkpoints").iterdir() if first == 1 else ():
            shutil.rmtree(checkpoint_folder) if checkpoint_folder.is_dir() else checkpoint_folder.unlink()
        run.stop_after, run.resume, run.data.accumulate = None, "auto", 1
        assert fit(run, "mae_tiny") == "done"
        assert column(run.run_dir, "sample_digest") == column(tmp_path / "whole", "sample_digest")
    runs[1].data.lanes = 2
    with pytest.raises(UserError, match=r"data\.lanes is 2, was 4"):
        fit(runs[1], "mae_tiny")


def test_two_processes_equal_one_that_accumulates(whole, digits, tmp_path, start_ranks):
    go_on_to_the_end(start_ranks, 2, digits, tmp_path / "two")
    assert column(tmp_path / "two", "sample_digest") == column(whole, "sample_digest")
    assert column(tmp_path / "two", "loss") == column(whole, "loss")
    one, two = weights(whole), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_the_full_batch_in_one_go_is_the_same_to_rounding(whole, digits, tmp_path):
    fit(small_run(digits, tmp_path / "full"), "mae_tiny")
    assert column(tmp_path / "full", "sample_digest") == column(whole, "sample_digest")
    assert column(tmp_path / "full", "loss") == pytest.approx(column(whole, "loss"), rel=1e-6)
    full, parts = weights(tmp_path / "full"), weights(whole)
    for name, tensor in full.items():
        if name.startswith("model."):
            equal_to_rounding(name, tensor, parts[name])


def equal_to_rounding(name: str, one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal to 1e-6 in norm, leaving out the key's bias: its true gradient is 0 and AdamW enlarges its noise."""
    if name.endswith("qkv.bias"):
        third = len(one) // 3
        one, other = (torch.cat([bias[:third], bias[2 * third :]]) for bias in (one, other))
    assert (one - other).norm() <= 1e-6 * one.norm(), name


def test_kill_and_resume_is_exact(whole, digits, tmp_path):
    """kill -9 in the middle of the run, then --resume auto: every digit as if nothing had happened."""
    words = [EYESPOT, *flags(digits, tmp_path / "killed", "--data.accumulate", "2")]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        metrics = tmp_path / "killed" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 8, process)
        process.send_signal(signal.SIGKILL)
    assert 5 <= len(lines(tmp_path / "killed")) < STEPS
    done = subprocess.run([*words, "--resume", "auto"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert column(tmp_path / "killed", "step") == list(range(1, STEPS + 1))
    assert column(tmp_path / "killed", "loss") == column(whole, "loss")
    assert column(tmp_path / "killed", "sample_digest") == column(whole, "sample_digest")
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(tmp_path / "killed")[name]), name


def test_a_stopped_run_goes_on_with_another_number_of_ranks(whole, digits, tmp_path, start_ranks):
    run = small_run(digits, tmp_path / "elastic", stop_after=7)
    assert fit(run, "mae_tiny") == "done"
    go_on_to_the_end(start_ranks, 3, digits, tmp_path / "elastic")
    assert column(tmp_path / "elastic", "sample_digest") == column(whole, "sample_digest")
    assert column(tmp_path / "elastic", "loss") == pytest.approx(column(whole, "loss"), rel=1e-4)


ENGINES_IN_TURN = [
    ("ddp", 1, 4),
    ("fsdp", 2, 8),
    ("deepspeed 3", 3, 12),
    ("deepspeed 1", 2, 16),
    ("deepspeed 2", 1, STEPS),
]


@pytest.mark.parametrize(
    "parts",
    [
        [("ddp", 1, 7), ("fsdp", 2, 14), ("deepspeed 3", 2, STEPS)],
        pytest.param(ENGINES_IN_TURN, marks=pytest.mark.thorough),
    ],
    ids=["three", "five"],
)
def test_a_run_moves_between_engines_and_ranks(parts, whole, digits, tmp_path, start_ranks):
    """Engines on other numbers of ranks in one run: the same samples, and losses to 1e-4."""
    for engine, ranks, stop in parts:
        processes = start_ranks(go_on, ranks, digits, tmp_path / "run", engine, stop)
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes] == [0] * ranks, engine
        meta = checkpoint.read_meta(checkpoint.newest(tmp_path / "run"))
        assert (meta.step, meta.world_size, meta.engine) == (stop, ranks, engine.split()[0])
    assert column(tmp_path / "run", "step") == list(range(1, STEPS + 1))
    assert column(tmp_path / "run", "sample_digest") == column(whole, "sample_digest")
    assert column(tmp_path / "run", "loss") == pytest.approx(column(whole, "loss"), rel=1e-4)


def test_a_killed_rank_is_named_and_torchrun_starts_all_again(whole, digits, tmp_path):
    """kill -9 of one of two: the other says who it was, and the run goes on by itself, exactly."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    words = [*launcher, "--no-python", EYESPOT, *flags(digits, tmp_path / "run")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 8, process)
        victim = rank_process(process.pid, 1)
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert f"eyespot: rank 1 ({socket.gethostname()}, process {victim}) died at step" in said
    assert column(tmp_path / "run", "step") == list(range(1, STEPS + 1))
    assert column(tmp_path / "run", "loss") == column(whole, "loss")
    log = (tmp_path / "run" / "logs" / "rank-0.log").read_text()
    assert f"stopped: rank 1 ({socket.gethostname()}, process {victim}) died" in log
    assert log.rstrip().endswith(f"done: step {STEPS} of {STEPS}")


def rank_process(launcher: int, rank: int) -> int:
    """The process of a rank among the launcher's children."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    environments = {int(child): Path(f"/proc/{child}/environ").read_bytes() for child in children}
    return next(child for child, words in environments.items() if f"\0RANK={rank}\0".encode() in words)


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_a_signal_saves_and_stops(number, digits, tmp_path):
    words = [EYESPOT, *flags(digits, tmp_path / "run", "--steps", "100000", "--save-every", "100000")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 3, process)
        process.send_signal(number)
        assert process.wait(240) == 75
    last = lines(tmp_path / "run")[-1]["step"]
    assert checkpoint.read_meta(checkpoint.newest(tmp_path / "run")).step == last
    assert number.name in (tmp_path / "run" / "logs" / "rank-0.log").read_text().splitlines()[-1]


def test_not_finite_stops_with_the_ids_after_the_last_good_checkpoint(digits, tmp_path):
    run = small_run(digits, tmp_path / "run")
    run.optim.lr = 1e30
    with pytest.raises(TrainingError, match="sample ids") as caught:
        fit(run, "mae_tiny")
    step = int(str(caught.value).split("step ")[1].split(":")[0])
    assert "\n" not in str(caught.value)
    assert checkpoint.read_meta(checkpoint.newest(run.run_dir)).step == step - 1
    saved = weights(run.run_dir)
    assert all(tensor.isfinite().all() for tensor in saved.values())
    ids = json.loads(str(caught.value).split("sample ids ")[1].split(";")[0])
    assert len(ids) == 24


def test_a_run_folder_is_not_overwritten(whole, digits):
    run = small_run(digits, whole)
    with pytest.raises(UserError, match="holds a run already"):
        fit(run, "mae_tiny")
    run.resume, run.optim.lr = "auto", 9.0
    with pytest.raises(UserError, match=r"optim\.lr is 9\.0"):
        fit(run, "mae_tiny")


def test_going_on_after_the_last_step_changes_nothing(whole, digits):
    before = (whole / "metrics.jsonl").read_text()
    run = small_run(digits, whole, resume="auto")
    run.data.accumulate = 2
    assert fit(run, "mae_tiny") == "done"
    assert (whole / "metrics.jsonl").read_text() == before


def test_branching_off_from_a_checkpoint(whole, digits, tmp_path):
    run = small_run(digits, tmp_path / "branch", resume=str(checkpoint.newest(whole)), steps=STEPS + 2)
    run.optim.lr = 1e-4
    assert fit(run, "mae_tiny") == "done"
    assert column(tmp_path / "branch", "step") == [STEPS + 1, STEPS + 2]


def test_two_runs_cannot_share_a_folder(digits, tmp_path):
    words = [EYESPOT, *flags(digits, tmp_path / "run", "--steps", "100000")]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        wait_for((tmp_path / "run" / "run.json").exists, process)
        with pytest.raises(UserError, match=f"in use by process {process.pid}"):
            fit(small_run(digits, tmp_path / "run", resume="auto"), "mae_tiny")
        process.send_signal(signal.SIGKILL)


def test_a_picture_is_written(digits, tmp_path):
    run = small_run(digits, tmp_path / "run", steps=2, picture_every=1)
    fit(run, "mae_tiny")
    assert [path.name for path in sorted((run.run_dir / "pictures").iterdir())] == [
        "step-00000001.png",
        "step-00000002.png",
    ]


def test_a_run_does_not_notice_its_pictures(digits, tmp_path):
    """The running statistics of its batch norms are those of the training images alone."""
    for folder, every in (("alone", 0), ("watched", 1)):
        run = small_run(digits, tmp_path / folder, steps=2, picture_every=every)
        recipe = make_run("denoising_tiny")
        run.objective, run.encoder = recipe.objective, recipe.encoder
        fit(run, "denoising_tiny")
    alone, watched = (weights(tmp_path / folder) for folder in ("alone", "watched"))
    assert any(name.endswith("running_mean") for name in alone)
    assert all(torch.equal(tensor, watched[name]) for name, tensor in alone.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.shards": None}, r"data\.shards: not given"),
        ({"data.shards": Path("absent")}, "no such folder"),
        ({"data.batch_size": 5000}, "batch_size 5000"),
        ({"data.accumulate": 7}, "must be a multiple of 7"),
        ({"engine": "warp"}, "engine 'warp': not one of ddp"),
        ({"run_dir": Path("/proc/run")}, "run_dir /proc/run: cannot be written"),
        ({"resume": "absent"}, "no meta.json"),
    ],
)
def test_wrong_settings_are_one_line(change, words, digits, tmp_path):
    run = small_run(digits, tmp_path / "run")
    for path, value in change.items():
        target = run.data if path.startswith("data.") else run
        setattr(target, path.removeprefix("data."), value)
    with pytest.raises(UserError, match=words) as caught:
        fit(run, "mae_tiny")
    assert "\n" not in str(caught.value)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it got there"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_mlflow_shows_one_run_across_resumes(digits, tmp_path, monkeypatch):
    """Stopped and resumed, with pictures: one MLflow run that holds each metric once, the settings and the pictures."""
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = small_run(digits, tmp_path / "run", track=True, stop_after=7, picture_every=5)
    fit(run, "mae_tiny")
    fit(small_run(digits, tmp_path / "run", track=True, resume="auto", picture_every=5), "mae_tiny")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "eyespot"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    recorded = sorted((point.step, point.value) for point in history)
    assert recorded == list(zip(column(run.run_dir, "step"), column(run.run_dir, "loss"), strict=True))
    for name in ("images_per_second", "data_wait_share", "lr", "grad_norm", "peak_memory_gb"):
        assert len(client.get_metric_history(found.info.run_id, grouped(name))) == STEPS
    assert found.data.params["optim.lr"] == str(run.optim.lr)
    assert len(found.data.tags["manifest_sha256"]) == 64
    names = [item.path for item in client.list_artifacts(found.info.run_id, "images") if item.path.endswith(".png")]
    assert sorted(int(name.split("+")[2]) for name in names) == [5, 10, 15, 20]


def test_a_run_goes_on_with_the_labels_that_it_may_see(digits, tmp_path):
    """Of another list it would be another run; the list's place is on record."""

    def run_in(folder: str, **changes) -> Run:
        run = make_run("s4l_tiny")
        run.data.shards, run.data.batch_size, run.data.labeled_ids = str(digits), 24, tmp_path / "known.txt"
        run.run_dir, run.steps, run.save_every, run.log_every, run.picture_every = tmp_path / folder, 4, 2, 1, 0
        run.optim.warmup_steps, run.track, run.device = 1, False, "cpu"
        for name, value in changes.items():
            setattr(run, name, value)
        return run

    (tmp_path / "known.txt").write_text("\n".join(map(str, range(0, 1438, 5))))
    fit(run_in("straight"), "s4l_tiny")
    shown = column(tmp_path / "straight", "labeled")
    assert all(0 < share < 0.5 for share in shown)
    fit(run_in("parts", stop_after=2), "s4l_tiny")
    fit(run_in("parts", resume="auto"), "s4l_tiny")
    assert column(tmp_path / "parts", "loss") == column(tmp_path / "straight", "loss")
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert record["run"]["data"]["labeled_ids"] == str(tmp_path / "known.txt")
    (tmp_path / "known.txt").write_text("1 2 3")
    with pytest.raises(UserError, match=r"loader state: shards .* the ids"):
        fit(run_in("branch", resume=str(checkpoint.newest(tmp_path / "parts"))), "s4l_tiny")
