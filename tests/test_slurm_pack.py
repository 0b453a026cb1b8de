"""Packing as a job array on a real SLURM cluster: a node that dies costs nothing but time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packed_parts import content, write_images
from slurm_cluster import SlurmCluster

from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.task_part import LAUNCH

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


def test_an_array_packs_what_one_pack_does(slurm: SlurmCluster, tmp_path: Path):
    """One task is killed inside its job, which starts it again; another is queued again in the middle."""
    source = write_images(tmp_path / "photos", 400)
    pack(str(source), tmp_path / "whole", workers=1, max_samples=5)
    root = tmp_path / "shards"
    flags = ["--tasks", "3", "--time", "20m", "--array-parallelism", "3"]
    words = ["--", "shards", "pack", str(source), str(root), "--max-samples", "5", "--workers", "1"]
    command = [sys.executable, "-m", "eyespot", "launch", *flags, *words]
    environment = {**slurm.environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    array = done.stdout.split(":")[0].removeprefix("job ")
    merging = done.stdout.split("then job ")[1].split()[0]
    assert "3 tasks of shards pack" in done.stdout
    again = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 2 and "of an earlier launch lives" in again.stderr

    end = time.monotonic() + 200
    killed = False
    while not killed:
        assert time.monotonic() < end, story(root)
        if len(list(root.glob(".parts/0001-of-0003/*.tar"))) >= 2:
            pids = [pid for node in slurm.nodes for pid in slurm.node_pids(node, "--task 1/3")]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed = bool(pids)
        time.sleep(0.02)
    slurm.run("scontrol", "requeue", f"{array}_2")
    assert slurm.wait_for(merging, ENDED, 300) == "COMPLETED", story(root)
    logs = root / LAUNCH / "submitit"
    assert any("was killed by signal 9; starts again" in path.read_text() for path in logs.glob("*_log.err")), story(
        root
    )
    made = {name: digest for name, digest in content(root).items() if not name.startswith(LAUNCH)}
    assert made == content(tmp_path / "whole")
    once_more = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert once_more.returncode == 0, once_more.stderr
    merging = once_more.stdout.split("then job ")[1].split()[0]
    assert slurm.wait_for(merging, ENDED, 200) == "COMPLETED", story(root)
    assert {name: d for name, d in content(root).items() if not name.startswith(LAUNCH)} == made


def story(root: Path) -> str:
    logs = sorted((root / LAUNCH / "submitit").glob("*_log.*"))
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in logs)
