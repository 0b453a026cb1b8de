"""A task of a job: where SLURM has put it, and that it starts without torch."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.cluster.processes import Place
from eyespot.cluster.supervisor.node_job import NodeJob, here

NAMES = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")


@pytest.fixture
def slurm_task(monkeypatch):
    """``slurm_task(**variables)``: the environment of a task, without what other tasks have."""

    def put(**variables: str) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_a_plain_job(slurm_task):
    slurm_task(SLURM_NODEID="1", SLURM_JOB_NODELIST="gpu[08-10]", SLURM_JOB_ID="123")
    place = here(8)
    assert place == Place(index=1, nodes=("gpu08", "gpu09", "gpu10"), processes=8, job="123", requeues=0)
    assert place.node == "gpu09" and list(place.ranks_of("gpu10")) == list(range(16, 24))


def test_a_task_of_an_array_that_was_requeued(slurm_task):
    slurm_task(
        SLURM_NODEID="0",
        SLURM_JOB_NODELIST="a,b",
        SLURM_JOB_ID="130",
        SLURM_ARRAY_JOB_ID="123",
        SLURM_ARRAY_TASK_ID="4",
        SLURM_RESTART_COUNT="2",
    )
    assert here(1) == Place(index=0, nodes=("a", "b"), processes=1, job="123_4", requeues=2)


def test_what_submitit_pickles_is_what_the_node_gets():
    known = {"run_dir": Path("runs/a"), "words": ("pretrain",), "processes": 2, "kind": "eval"}
    job = NodeJob(**known, max_requeues=3, max_restarts=1, doctor=True)
    assert pickle.loads(pickle.dumps(job)) == job


def test_a_node_does_not_wait_for_torch():
    code = "import sys, eyespot.cluster.supervisor.node_job; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
