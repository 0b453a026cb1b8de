"""Curation by the ranks of a job on a real SLURM cluster: a rank that is killed costs nothing but time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from left_runs import leave_run, small_run
from planted_copies import pack_scenes
from slurm_cluster import SlurmCluster

from eyespot.cluster.cli import main
from eyespot.data_pipeline.shards.parts.task_part import LAUNCH

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


def test_two_nodes_choose_what_one_process_does(slurm: SlurmCluster, tmp_path: Path):
    """One rank is killed in the middle, and all start again; then the job is queued again, and finds all done."""
    shards = pack_scenes(tmp_path, range(1200), {"jpeg": range(60)}).path
    run = small_run("mae_tiny")
    run.data.shards = shards
    model = str(leave_run(run, "mae_tiny", tmp_path / "run", shards))
    words = ["--model", model, "--cosine", "0.999", "--device", "cpu"]
    assert main(["curate", "duplicates", str(shards), str(tmp_path / "whole"), *words]) == 0
    out = tmp_path / "out"
    flags = ["--nodes", "2", "--processes-per-node", "2", "--time", "20m", "--", "curate", "duplicates"]
    cache = ["--cache", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "eyespot", "launch", *flags, str(shards), str(out), *words, *cache]
    known = {"env": {**slurm.environment, "OMP_NUM_THREADS": "1"}, "cwd": tmp_path, "check": False}
    done = subprocess.run(command, capture_output=True, text=True, **known)
    assert done.returncode == 0, done.stderr
    job = done.stdout.split(":")[0].removeprefix("job ")
    assert "curate duplicates on 4 ranks" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, **known)
    assert again.returncode == 2 and f"job {job} of an earlier launch lives" in again.stderr

    end = time.monotonic() + 300
    while not any(path.read_bytes().count(1) > 300 for path in (tmp_path / "cache").glob("pictures-*/done.npy")):
        assert time.monotonic() < end, story(out)
        time.sleep(0.01)
    ranks = slurm.node_pids(slurm.nodes[1], "eyespot.cluster.cli curate duplicates")
    os.kill(ranks[0], signal.SIGKILL)
    assert slurm.wait_for(job, ENDED, 400) == "COMPLETED", story(out)
    assert "was killed by signal 9; all start again" in story(out)
    for name in ("ids.txt", "dropped.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    once_more = subprocess.run(command, capture_output=True, text=True, **known)
    assert once_more.returncode == 0, once_more.stderr
    assert slurm.wait_for(once_more.stdout.split(":")[0].removeprefix("job "), ENDED, 300) == "COMPLETED", story(out)
    assert (out / "ids.txt").read_bytes() == (tmp_path / "whole" / "ids.txt").read_bytes()


def story(out: Path) -> str:
    logs = sorted((out / LAUNCH / "submitit").glob("*_log.*"))
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in logs)
