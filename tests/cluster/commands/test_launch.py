"""eyespot launch as a person meets it, without SLURM."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.cluster.cli import main
from eyespot.cluster.launch.submission import Submission, read_submission, write_submission
from eyespot.cluster.launch.submit import freeze
from eyespot.cluster.launch.sweep import members
from eyespot.cluster.status.records import Records

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """An empty folder, no site defaults, and no SLURM."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    git = shutil.which("git")
    (tmp_path / "bin").mkdir()
    for program in filter(None, [git]):
        (tmp_path / "bin" / "git").symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def words(digits: Path, *more: str) -> list[str]:
    flags = ["--data.shards", str(digits), "--run-dir", "runs/one", "--data.batch-size", "16", "--no-track"]
    return ["--", "pretrain", "mae_tiny", *flags, "--steps", "4", "--picture-every", "0", *more]


def refuse(capsys, *given: str) -> str:
    """The one line that the command answers, with exit code 2; what a shorter run changes is said before."""
    assert main(["launch", *given]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "; hence " not in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (["--nodes", "2"], "launch: nothing after --; write: eyespot launch --nodes 2 ... -- pretrain RECIPE"),
        (["--", "eval", "linear"], "launch: 'eval' after --"),
        (["--", "shards", "add", "x", "y"], "or --tasks N -- shards pack ...; nothing else is launched"),
        (["--tasks", "2", "--dry-run", "--", "shards", "pack", "digits", "s3://b/x"], "written on a disk only"),
        (["--tasks", "2", "--dry-run", "--", "shards", "pack", "absent", "x"], "source absent: no such file or folder"),
        (["--", "pretrain", "mae_tinny"], "perhaps you meant mae_tiny"),
        (["--", "pretrain", "mae_tiny", "--stepps", "3"], "--stepps"),
        (["--", "pretrain", "mae_tiny"], "data.shards: not given"),
        (["--node", "2", "--", "pretrain", "mae_tiny"], "--node"),
        (["--nodes", "0", "--", "pretrain", "mae_tiny"], "nodes 0: must be 1 or more"),
        (["--profile", "big", "--", "pretrain", "mae_tiny"], "profile 'big': not in"),
        (["--profile"], "--profile: needs a value"),
        (["--refreeze", "--", "pretrain", "mae_tiny"], "refreeze: goes with --again RUN"),
        (["--again", "absent"], "absent: was never submitted"),
        (["--again", "absent", "--", "pretrain", "mae_tiny"], "leave out the words after --"),
    ],
)
def test_wrong_words_are_one_line(given, answer, capsys):
    assert answer in refuse(capsys, *given)
    assert list(Path.cwd().iterdir()) == []


def test_what_does_not_fit_together_is_one_line(capsys, digits):
    assert "must be a multiple of 3" in refuse(capsys, "--nodes", "3", *words(digits))
    assert "no SLURM on this machine (no sbatch); start the run here with --local" in refuse(capsys, *words(digits))
    assert "nodes 2: --local has one" in refuse(capsys, "--local", "--nodes", "2", *words(digits))
    assert "leave out --sweep and --then" in refuse(capsys, "--local", "--sweep", "seed=0,1", *words(digits))
    assert "--local starts none" in refuse(capsys, "--local", "--container", "docker://a/b", *words(digits))
    assert "batch_size 15" in refuse(capsys, "--nodes", "2", "--sweep", "data.batch_size=16,15", *words(digits))
    assert not any(Path.cwd().rglob("run.json")), "what is refused is not kept"


def test_a_dry_run_prints_the_script_and_writes_nothing(capsys, digits, tmp_path):
    given = ["--nodes", "2", "--time", "12h", "--container", "docker://team/eyespot", *words(digits)]
    assert main(["launch", "--dry-run", *given]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#!/bin/bash\n")
    assert "#SBATCH --time=720\n" in out
    assert list(Path.cwd().iterdir()) == []


def test_site_defaults_apply_and_are_shown(capsys, digits, tmp_path):
    Path("runs").mkdir()
    Path("runs/cluster.toml").write_text('[default]\npartition = "lab"\nnodes = 3\n[pair]\nnodes = 2\n')
    assert main(["launch", "--dry-run", "--profile", "pair", *words(digits)]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --partition=lab\n" in script
    assert "#SBATCH --nodes=2\n" in script
    assert main(["launch", "--dry-run", "--nodes", "4", *words(digits)]) == 0
    assert "#SBATCH --nodes=4\n" in capsys.readouterr().out
    assert main(["launch", "--show-profile", *words(digits)]) == 0
    shown = capsys.readouterr().out
    assert "partition" in shown
    assert "lab" in shown
    Path("runs/cluster.toml").write_text("[default]\nnode = 3\n")
    assert "runs/cluster.toml: key 'node' is unknown; perhaps you meant nodes" in refuse(capsys, *words(digits))


def test_here_under_torchrun(digits, capsys, tmp_path):
    """Two ranks on frozen code."""
    run_dir = Path("runs/one").absolute()
    command = [sys.executable, "-m", "eyespot.cluster.cli", "launch", "--local"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    given = ["--processes-per-node", "2", *words(digits, "--stop-after", "2", "--log-every", "1")]
    done = subprocess.run([*command, *given], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    records = Records(run_dir)
    assert read_submission(records.submission_file).processes_per_node == 2
    record = json.loads((run_dir / "run.json").read_text())
    assert (record["world_size"], record["argv"][0]) == (2, str(records.code / "eyespot" / "cluster" / "cli.py"))
    assert "holds a run already; go on in it with: eyespot launch --again" in refuse(capsys, "--local", *words(digits))
    other = refuse(capsys, "--local", *words(digits, "--resume", "auto", "--optim.lr", "0.5"))
    assert "cannot go on with other settings: optim.lr is 0.5" in other

    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert main(["launch", "--dry-run", *words(digits, "--resume", "auto", "--steps", "4")]) == 0


def test_a_run_that_goes_on_here_is_left_alone(digits, capsys):
    run_dir = Path("runs/one").absolute()
    run_dir.mkdir(parents=True)
    with (run_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        assert f"in use by process {os.getpid()} of this machine" in refuse(capsys, "--local", *words(digits))
    assert main(["launch", "--dry-run", *words(digits)]) == 0


def test_once_more_is_what_was_asked_before(digits, capsys):
    run_dir = Path("runs/one").absolute()
    (member,) = members(words(digits)[1:], [])
    member.run.optim.lr = 0.25
    freeze(Records(run_dir).code, [member])
    records = Records(run_dir)
    write_submission(records.submission_file, Submission(nodes=2, time="12h", partition="lab"))
    before = (records.code / "frozen.json").stat().st_mtime_ns
    assert main(["launch", "--dry-run", "--again", str(run_dir), "--time", "1d"]) == 0
    script = capsys.readouterr().out
    for line in ("--nodes=2", "--partition=lab", "--time=1440"):
        assert f"#SBATCH {line}\n" in script
    assert (records.code / "frozen.json").stat().st_mtime_ns == before
    assert "leave out --sweep and --profile" in refuse(capsys, "--again", str(run_dir), "--sweep", "seed=1,2")
    assert "must be a multiple of 3" in refuse(capsys, "--again", str(run_dir), "--nodes", "3")
    shutil.rmtree(records.code)
    assert "its frozen code is gone; add --refreeze" in refuse(capsys, "--again", str(run_dir))
    (run_dir / "sweep.json").touch()
    assert "is a sweep; name one of its runs" in refuse(capsys, "--again", str(run_dir))
    assert "holds a sweep; choose another --run-dir" in refuse(capsys, *words(digits))
