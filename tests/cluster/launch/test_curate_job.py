"""``eyespot launch -- curate``: what is submitted, what is refused, and ranks on this machine that are killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planted_copies import pack_scenes

from eyespot.cluster.cli import main


@pytest.mark.parametrize(
    ("flags", "words", "message"),
    [
        (["--tasks", "2"], ["duplicates"], "tasks 2: goes with -- shards pack"),
        (["--sweep", "seed=0,1"], ["duplicates"], "--sweep and --refreeze are of runs"),
        (["--then", "eval"], ["duplicates"], "curate is launched without a container, and without --then"),
        (["--nodes", "2"], ["duplicates"], "nodes 2: --local has one"),
        ([], ["duplicate"], "perhaps you meant eyespot curate duplicates"),
        ([], ["duplicates"], "no such folder"),
    ],
)
def test_what_cannot_be_launched_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags, words, message):
    places = [str(tmp_path / "nothing"), str(tmp_path / "out")]
    assert main(["launch", "--local", *flags, "--", "curate", *words, *places]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "out").exists()


def test_the_script_of_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--nodes", "2", "--processes-per-node", "3", "--cpus-per-task", "4", "--time", "2h"]
    assert main(["launch", "--dry-run", *flags, "--", "curate", "duplicates", "photos", str(tmp_path / "even")]) == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert (options["nodes"], options["ntasks-per-node"], options["job-name"]) == ("2", "1", "curate-even")
    assert options["signal"] == "USR2@120" and options["time"] == "120" and "requeue" in options
    assert not (tmp_path / "even").exists()


@pytest.mark.thorough
def test_ranks_here_start_again_when_one_is_killed(tmp_path: Path):
    shards = str(pack_scenes(tmp_path, range(1500), {"jpeg": range(60)}).path)
    words = ["curate", "duplicates", shards, "--no-report", "--device", "cpu"]
    assert main([*words[:3], str(tmp_path / "whole"), *words[3:]]) == 0
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-P",
        "-m",
        "eyespot",
        "launch",
        "--local",
        "--processes-per-node",
        "2",
        "--",
        *words[:3],
    ]
    with subprocess.Popen([*command, str(out), *words[3:]], stderr=subprocess.PIPE, text=True) as process:
        while not any(path.read_bytes().count(1) > 400 for path in out.glob("pictures-*/done.npy")):
            assert process.poll() is None
            time.sleep(0.01)
        rank = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1])
        os.kill(rank, signal.SIGKILL)
        text = process.communicate()[1]
    assert process.returncode == 0, text
    assert "rank 1 on localhost was killed by signal 9; all start again" in text
    assert (out / "ids.txt").read_bytes() == (tmp_path / "whole" / "ids.txt").read_bytes()
