"""What SLURM says, put into words and numbers; asking it is tested on a real cluster in test_slurm_watching.py."""

import os
from pathlib import Path

import pytest

from eyespot.cluster import slurm
from eyespot.cluster.slurm import Job, SlurmError


def job(**changes: object) -> Job:
    values = dict(id="7", state="PENDING", reason="Priority", nodes=(), num_nodes=2, restarts=0)
    values |= dict(seconds_left=None, start=None, exit_code="0:0", requeue=True)
    return Job(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("compressed", "names"),
    [
        ("", []),
        ("login", ["login"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-10,12],gpu1", ["node08", "node09", "node10", "node12", "gpu1"]),
        ("r[1-2]n[01-02]-ib", ["r1n01-ib", "r1n02-ib", "r2n01-ib", "r2n02-ib"]),
    ],
)
def test_node_names(compressed, names):
    assert slurm.node_names(compressed) == names


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("1:07", 67),
        ("2:01:07", 7267),
        ("1-02:00:00", 93600),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_seconds_left(text, seconds):
    assert slurm._seconds(text) == seconds


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "waits: jobs of higher priority come first"),
        ({"reason": "Resources"}, "waits: no free nodes yet"),
        ({"reason": "QOSMaxJobsPerUserLimit"}, "over a limit of its QOS: max jobs per user (QOSMaxJobsPerUserLimit)"),
        ({"reason": "AssocGrpCPUMinutesLimit"}, "over a limit of its account: all jobs' cpu minutes"),
        ({"reason": "AssocGrpGRES"}, "over a limit of its account: all jobs' gres"),
        ({"reason": "ReqNodeNotAvail, UnavailableNodes:node[1-2]"}, "down, drained or reserved: node[1-2]"),
        ({"reason": "launch failed requeued held"}, "release it with scontrol release"),
        ({"reason": "OfAVersionToCome"}, "waits: OfAVersionToCome"),
        ({"state": "FAILED", "exit_code": "75:0"}, "failed (exit code 75)"),
        ({"state": "FAILED", "exit_code": "0:9"}, "failed (killed by signal 9)"),
        ({"state": "NODE_FAIL"}, "a node failed"),
        ({"state": "OF_A_VERSION_TO_COME"}, "of a version to come"),
    ],
)
def test_states_and_reasons_in_words(changes, words):
    assert words in slurm.in_words(job(**changes))


def test_a_job_is_alive_until_it_ends_for_good():
    assert all(slurm.alive(job(state=state)) for state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"))
    assert not any(
        slurm.alive(job(state=state)) for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    )
    assert not slurm.alive(None)
    assert "not known" in slurm.in_words(None)


def test_a_line_of_sacct():
    """Its columns as sacct's manual gives them: this was not tried on a cluster with accounting."""
    found = slurm._accounted("12_3|CANCELLED by 1000|0:15|node[1-2]|2|1795398820")
    assert found == job(
        id="12_3",
        state="CANCELLED",
        reason="None",
        nodes=("node1", "node2"),
        exit_code="0:15",
        start=1795398820.0,
        restarts=None,
        requeue=None,
    )
    waiting = slurm._accounted("13|PENDING|0:0|None assigned|1|Unknown")
    assert waiting is not None
    assert (waiting.nodes, waiting.start) == ((), None)
    assert slurm._accounted("") is None


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm.available()
    assert slurm.find_jobs([]) == {}
    with pytest.raises(SlurmError, match=r"squeue: cannot be run \(No such file"):
        slurm.find_job("1")


def test_words_that_are_no_jobs_reach_no_command(monkeypatch, tmp_path):
    program(tmp_path, "squeue", f'echo "$@" > {tmp_path}/asked')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.find_jobs(["x", "--me", "1,2", "1" * 400, ""]) == {} and not (tmp_path / "asked").exists()
    monkeypatch.setattr(slurm, "_keeps_accounts", lambda: False)
    assert slurm.find_jobs(["7", "x", "8_1"]) == {} and "--jobs=7,8 " in (tmp_path / "asked").read_text()


def test_a_controller_that_hangs_is_given_up(monkeypatch, tmp_path):
    program(tmp_path, "squeue", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "ANSWER_SECONDS", 0.3)
    with pytest.raises(SlurmError, match="squeue: no answer within"):
        slurm.find_job("1")
