"""Stopping runs where nothing has to be asked of SLURM; who leaves the queue and who saves: test_slurm_watching.py."""

import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from eyespot.cluster import slurm as asked
from eyespot.cluster.slurm import SlurmError
from eyespot.cluster.status.cancel import Targets, ask_to_stop, find_targets, outcome, wait_for_end
from eyespot.cluster.status.records import JobLine, Records
from eyespot.data_pipeline.errors import UserError


def make_run(run_dir: Path, *, steps: int = 9, checkpoint: int | None = None) -> Path:
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": steps}}))
    if checkpoint is not None:
        folder = run_dir / "checkpoints" / f"step-{checkpoint:08}"
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text("{}")
    return run_dir


def note(run_dir: Path, job: str, kind="pretrain") -> None:
    Records(run_dir).add_job(JobLine(job=job, kind=kind, submitted=time.time(), log="log", nodes=1, processes=1))


@pytest.mark.parametrize(
    ("made", "line"),
    [
        ({"checkpoint": 9}, "done, step 9"),
        ({}, "cancelled before its first checkpoint; start it with: eyespot launch --again {run}"),
        (
            {"steps": 9000, "checkpoint": 1234},
            "stopped at step 1,234, checkpoint of step 1,234; go on with: eyespot launch --again {run}",
        ),
    ],
)
def test_what_is_left_in_one_line(tmp_path, made, line):
    run_dir = make_run(tmp_path / "run", **made)
    assert outcome(run_dir) == f"{run_dir}: {line.format(run=run_dir)}"


def test_nothing_to_cancel_says_why(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    with pytest.raises(UserError, match=r"first: nothing to cancel, it was not submitted to SLURM"):
        find_targets([first])
    with pytest.raises(UserError, match="none of the 2 runs has a job that waits or runs"):
        find_targets([first, second])
    with (first / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"it runs on this machine; to save and stop it: kill -TERM {os.getpid()}"):
            find_targets([first])


def test_a_folder_that_cannot_be_written(tmp_path):
    run_dir = make_run(tmp_path / "run")
    (run_dir / "cluster").touch()  # where a folder should be
    with pytest.raises(UserError, match=r"run: cannot be written \(.*\); use scancel"):
        ask_to_stop(Targets(run_dirs=(run_dir,), trainings=(), others=()), now=False)


def test_a_run_that_is_asked_to_stop_is_never_requeued(tmp_path):
    run_dir = make_run(tmp_path / "run")
    ask_to_stop(Targets(run_dirs=(run_dir,), trainings=(), others=()), now=True)
    assert Records(run_dir).cancelled
    assert wait_for_end(Targets(run_dirs=(run_dir,), trainings=(), others=()), 60.0, print) == []


def test_a_cluster_that_does_not_answer_at_the_end_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    job = asked._queued("7|RUNNING|None|node1|1|0|1:00|2026-01-01T00:00:00|0:0|1|")
    assert job is not None
    with pytest.raises(SlurmError, match="scancel: cannot be run"):
        wait_for_end(Targets(run_dirs=(), trainings=(job,), others=()), 0.0, print)
