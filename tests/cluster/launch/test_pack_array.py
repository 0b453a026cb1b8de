"""``eyespot launch --tasks N -- shards pack``: what is submitted, what is refused, and tasks on this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packed_parts import content, write_images

from eyespot.cluster.cli import main
from eyespot.data_pipeline.shards.pack import pack


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["launch", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_scripts_of_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--tasks", "5", "--cpus-per-task", "4", "--time", "2h", "--array-parallelism", "2", "--partition", "cpu"]
    (tmp_path / "photos").mkdir()
    words = ["--", "shards", "pack", str(tmp_path / "photos"), str(tmp_path / "shards")]
    assert main(["launch", "--dry-run", *flags, *words]) == 0
    array, merging = capsys.readouterr().out.split("#!/bin/bash")[1:]
    options = [dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE)) for script in (array, merging)]
    assert options[0]["array"] == "0-4%2" and "array" not in options[1]
    assert options[1]["dependency"] == "afterok:JOB" and options[1]["kill-on-invalid-dep"] == "yes"
    assert [one["job-name"] for one in options] == ["pack-shards", "pack-shards-merge"]
    for one in options:
        assert one["signal"] == "USR2@120" and one["time"] == "120" and one["cpus-per-task"] == "4"
        assert one["partition"] == "cpu" and "requeue" in one
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("flags", "more", "message"),
    [
        ([], [], "tasks: not given"),
        (["--tasks", "2", "--nodes", "2"], [], "nodes 2: a task of shards pack has one node"),
        (["--tasks", "2", "--then", "eval"], [], "then"),
        (["--tasks", "2", "--sweep", "seed=0,1"], [], "--sweep and --refreeze are of runs"),
        (["--tasks", "2"], ["--task", "0/2"], "task 0/2: launch numbers the tasks itself"),
        (["--tasks", "0"], [], "tasks"),
    ],
)
def test_what_cannot_be_launched_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags, more, message):
    words = ["--", "shards", "pack", "digits", str(tmp_path / "shards"), *more]
    assert message in refusal(capsys, "--local", *flags, *words)
    assert not (tmp_path / "shards").exists()


def test_tasks_go_with_packing_alone(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--", "pretrain", "mae_tiny", "--data.shards", str(digits), "--run-dir", str(tmp_path / "run")]
    assert "tasks 2: goes with -- shards pack" in refusal(capsys, "--local", "--tasks", "2", *words)


@pytest.mark.thorough
def test_tasks_here_start_again_when_one_is_killed(tmp_path: Path):
    source = write_images(tmp_path / "photos", 300)
    pack(str(source), tmp_path / "whole", workers=1, max_samples=6)
    root = tmp_path / "shards"
    words = ["launch", "--local", "--tasks", "2", "--", "shards", "pack", str(source), str(root), "--max-samples", "6"]
    command = [sys.executable, "-m", "eyespot", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not list(root.glob(".parts/0001-of-0002/*.tar")) and process.poll() is None:
            time.sleep(0.005)
        for task in _children(process.pid):
            os.kill(task, signal.SIGKILL)
        text = process.communicate()[1]
    assert process.returncode == 0, text
    assert "--task 1/2: was killed by signal 9; starts again" in text
    assert content(root) == content(tmp_path / "whole")


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for path in tasks for pid in path.read_text().split()]
