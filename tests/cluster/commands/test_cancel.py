"""eyespot cancel where there is nothing to ask SLURM; with it: test_slurm_watching.py."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from eyespot.cluster.cli import main
from eyespot.cluster.status.records import JobLine, Records


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": 9}}))
    return tmp_path / "run"


def refuse(capsys, code: int, *words: str) -> str:
    assert main(["cancel", *words]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_run_that_was_not_submitted(run, capsys):
    assert "nothing to cancel, it was not submitted to SLURM" in refuse(capsys, 2, str(run))
    assert not Records(run).cancelled


def test_a_run_by_hand_is_told_how_to_stop(run, capsys):
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"kill -TERM {os.getpid()}" in refuse(capsys, 2, str(run))


def test_without_slurm(run, capsys, monkeypatch):
    line = JobLine(job="7", kind="pretrain", submitted=1.0, log="7_0_log.err", nodes=1, processes=1)
    Records(run).add_job(line)
    monkeypatch.setenv("PATH", str(run))
    assert refuse(capsys, 1, str(run)).startswith("eyespot: squeue: cannot be run")


def test_wrong_words_are_one_line(run, capsys):
    assert "--wait-seconds -1.0: must be 0 or more" in refuse(capsys, 2, str(run), "--wait-seconds", "-1")
    assert "no such folder" in refuse(capsys, 2, str(run / "absent"))
