"""Runs on a mixture: what they tell of each source, alike on any number of ranks, exact after a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

EYESPOT = str(Path(sys.executable).parent / "eyespot")
STEPS = 20


def small_run(shards: str, run_dir: Path, **changes) -> Run:
    run = make_run("mae_tiny")
    run.data.shards, run.data.batch_size, run.run_dir = shards, 24, run_dir
    run.optim.lr, run.optim.warmup_steps = 5e-3, 2
    run.steps, run.log_every, run.save_every, run.picture_every, run.track = STEPS, 1, 5, 0, False
    run.device = "cpu"
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def flags(shards: str, run_dir: Path, *more: str) -> list[str]:
    """The same run as ``small_run`` on the command line."""
    sizes = ["--data.batch-size", "24", "--steps", str(STEPS), "--log-every", "1", "--save-every", "5"]
    sizes += ["--optim.lr", "5e-3", "--optim.warmup-steps", "2"]
    places = ["--data.shards", shards, "--run-dir", str(run_dir), "--picture-every", "0"]
    return ["pretrain", "mae_tiny", *places, *sizes, "--no-track", "--device", "cpu", *more]


def torchrun(processes: int, words: list[str]) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*launcher, "--no-python", EYESPOT, *words], capture_output=True, text=True, timeout=900, check=False
    )


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def column(run_dir: Path, name: str) -> list:
    return [line[name] for line in lines(run_dir)]


def mixture(digits: Path) -> str:
    return f"{digits / 'train'}:0.75,{digits / 'test'}:0.25"


@pytest.fixture(scope="module")
def whole_mixture(digits, tmp_path_factory) -> Path:
    """A run on two sources that nothing interrupts: one process, two micro-batches per step."""
    run = small_run(mixture(digits), tmp_path_factory.mktemp("mixture") / "run")
    run.data.accumulate = 2
    torch.set_num_threads(1)
    assert fit(run, "mae_tiny") == "done"
    return run.run_dir


OF_SOURCES = [f"{name}/{of}" for of in ("share", "passes", "bad") for name in ("data/source/train", "data/source/test")]
LOSSES = ["train/source/train/loss", "train/source/test/loss"]


def train(shards: str, run_dir: Path) -> None:
    """What each rank does."""
    torch.set_num_threads(1)
    sys.exit(fit(small_run(shards, run_dir), "mae_tiny") != "done")


def test_a_mixture_tells_of_each_source_and_is_the_same_on_two_ranks(whole_mixture, digits, tmp_path, start_ranks):
    for line in lines(whole_mixture):
        seen = line["samples_seen"]
        assert abs(line["data/source/train/share"] * seen - 0.75 * seen) < 1
        assert line["data/source/train/passes"] == pytest.approx(0.75 * seen / 1438, abs=1e-3)
        apart = sum(share * line[name] for share, name in zip((0.75, 0.25), LOSSES, strict=True))  # 18 and 6 of 24
        assert apart == pytest.approx(line["loss"], rel=1e-5)
    processes = start_ranks(train, 2, mixture(digits), tmp_path / "two")
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    for name in ("sample_digest", "loss", *OF_SOURCES, *LOSSES):
        assert column(tmp_path / "two", name) == column(whole_mixture, name), name
    record = json.loads((tmp_path / "two" / "run.json").read_text())
    assert [(of["name"], of["weight"], of["share"]) for of in record["mixture"]] == [
        ("train", "3/4", 0.75),
        ("test", "1/4", 0.25),
    ]
    assert record["run"]["data"]["shards"] == mixture(digits)


@pytest.mark.thorough
def test_a_mixture_goes_on_with_other_ranks_and_refuses_another_mix(whole_mixture, digits, tmp_path):
    assert fit(small_run(mixture(digits), tmp_path / "run", stop_after=7), "mae_tiny") == "done"
    other = small_run(mixture(digits).replace("0.75", "0.7"), tmp_path / "run", resume="auto")
    with pytest.raises(UserError, match=r"the sources of data\.shards, or their proportions"):
        fit(other, "mae_tiny")
    done = torchrun(3, flags(mixture(digits), tmp_path / "run", "--resume", "auto"))
    assert done.returncode == 0, done.stderr
    for name in ("sample_digest", *OF_SOURCES):
        assert column(tmp_path / "run", name) == column(whole_mixture, name), name
    assert column(tmp_path / "run", LOSSES[1]) == pytest.approx(column(whole_mixture, LOSSES[1]), rel=1e-4)


@pytest.mark.thorough
def test_a_killed_mixture_goes_on_exactly(whole_mixture, digits, tmp_path):
    words = [EYESPOT, *flags(mixture(digits), tmp_path / "killed", "--data.accumulate", "2")]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        metrics = tmp_path / "killed" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 8):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert 5 <= len(lines(tmp_path / "killed")) < STEPS
    done = subprocess.run([*words, "--resume", "auto"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("step", "loss", "sample_digest", *OF_SOURCES, *LOSSES):
        assert column(tmp_path / "killed", name) == column(whole_mixture, name), name


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_what_was_damaged_stays_counted_when_a_run_goes_on(digits, tmp_path, ranks):
    """Every twentieth sample of one source; a run that is left at step 7 and goes on tells what a whole one does."""
    torch.set_num_threads(1)
    bad = ShardFolder(shutil.copytree(digits / "test", tmp_path / "bad"))
    for row in bad.index[::20]:
        with bad.tar_path(int(row["tar"])).open("r+b") as file:
            file.seek(int(row["offset"]) + int(row["size"]) - 9)
            file.write(b"damaged")
    shards = f"{digits / 'train'}:0.75,{bad.path}:0.25"

    def fit_until(step: int, name: str, **changes) -> None:
        run = small_run(shards, tmp_path / name, stop_after=step, **changes)
        run.steps, run.data.max_bad_fraction = 12, 0.9
        assert fit(run, "mae_tiny") == "done"

    fit_until(12, "whole")
    fit_until(7, "left")
    if ranks == 1:
        fit_until(12, "left", resume="auto")
    else:
        words = flags(shards, tmp_path / "left", "--resume", "auto", "--data.max-bad-fraction", "0.9")
        words[words.index("--steps") + 1] = "12"
        done = torchrun(ranks, words)
        assert done.returncode == 0, done.stderr
    for name in ("sample_digest", "bad_samples", "data/source/train/bad", "data/source/bad/bad"):
        assert column(tmp_path / "left", name) == column(tmp_path / "whole", name), name
    told = column(tmp_path / "left", "data/source/bad/bad")
    assert told[11] > told[6] > 0 and told == column(tmp_path / "left", "bad_samples")
