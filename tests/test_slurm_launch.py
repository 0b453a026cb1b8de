"""eyespot launch on a real SLURM cluster: what is submitted is what runs, sweeps are arrays, refusals are one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

from eyespot.cluster.cli import main
from eyespot.cluster.launch import containers
from eyespot.cluster.status.records import Records

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
SMALL = ["--no-doctor", "--time", "10m"]


@pytest.fixture
def typed(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This process talks to the cluster, has site defaults of its own, and stands in an empty folder."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def words(digits: Path, run_dir: Path, *more: str, steps: int = 3) -> list[str]:
    flags = ["--data.shards", str(digits), "--run-dir", str(run_dir), "--steps", str(steps), "--data.batch-size", "16"]
    return ["--", "pretrain", "mae_tiny", *flags, "--picture-every", "0", "--no-track", "--log-every", "1", *more]


def refuse(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert main(["launch", *given]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("eyespot: ") for line in lines), lines  # notes, and the refusal
    return lines[-1]


def story(run_dir: Path) -> str:
    logs = sorted((run_dir / "cluster" / "submitit").glob("*_log.*"))
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in logs)


def test_a_queued_job_runs_what_was_submitted_and_is_judged_then(slurm, typed, digits, tmp_path, capsys):
    """From a checkout of its own, whose code breaks between submission and start."""
    checkout, run_dir = tmp_path / "source" / "eyespot", tmp_path / "runs" / "frozen"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    edited = ["git", "ls-files", "--modified", "--others", "--exclude-standard"]
    for name in subprocess.run(edited, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    (checkout / "new_module.py").write_text("not_known_to_git = True\n")
    environment = {**os.environ, "PYTHONPATH": str(checkout.parent), "OMP_NUM_THREADS": "1"}
    given = ["--sbatch", "hold", "--then", "eval", "knn", *SMALL, *words(digits, run_dir)]
    command = [sys.executable, "-m", "eyespot.cluster.cli", "launch", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = Records(run_dir)
    training, judging = records.jobs()
    assert (training.kind, judging.kind) == ("pretrain", "eval")
    assert done.stdout.splitlines()[0] == f"job {training.job}: {run_dir}"
    assert f"eyespot logs {run_dir} --follow" in done.stdout

    (checkout / "pretrain" / "trainer.py").write_text("raise RuntimeError('edited after submission')\n")
    line = refuse(capsys, *SMALL, *words(digits, run_dir))
    assert f"job {training.job} of this run lives (" in line
    assert f"eyespot cancel {run_dir}" in line
    slurm.run("scontrol", "release", training.job)
    assert slurm.wait_for(training.job, ENDED, 300) == "COMPLETED", story(run_dir)
    slurm.run("scontrol", "release", judging.job)
    assert slurm.wait_for(judging.job, ENDED, 300) == "COMPLETED", story(run_dir)

    frozen = json.loads((records.code / "frozen.json").read_text())
    record = json.loads((run_dir / "run.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    assert record["git_commit"] == frozen["git_commit"] == head.stdout.strip()
    assert record["git_diff_sha256"] == frozen["git_diff_sha256"]
    assert (records.code / "eyespot" / "new_module.py").exists()
    assert [path.name[:4] for path in sorted((run_dir / "eval").glob("*.json"))] == ["knn_"] * 3
    assert Path(training.log).is_file()
    assert "holds a run already" in refuse(capsys, *SMALL, *words(digits, run_dir))


def test_what_slurm_refuses_is_one_line_and_leaves_nothing(slurm, typed, digits, tmp_path, capsys):
    run_dir = tmp_path / "runs" / "refused"
    line = refuse(capsys, "--partition", "nowhere", *SMALL, *words(digits, run_dir))
    assert line.startswith("eyespot: SLURM refuses the job: invalid partition specified: nowhere; ")
    assert not run_dir.exists()
    given = ["--sbatch", "no-such-option=1", "--sweep", "seed=0,1", *SMALL, *words(digits, run_dir)]
    assert "SLURM refuses the job" in refuse(capsys, *given)
    assert not run_dir.exists()


def test_a_sweep_is_an_array_and_its_evaluations_another(slurm, typed, digits, tmp_path, capsys):
    folder = tmp_path / "runs" / "sweep"
    held = ["--sbatch", "hold", "--sweep", "seed=0,1", "--then", "eval", "knn"]
    given = [*held, *SMALL, *words(digits, folder, steps=2)]
    assert main(["launch", "--dry-run", *given]) == 0
    promised = capsys.readouterr().out
    assert main(["launch", *given]) == 0
    shown = capsys.readouterr().out
    runs = json.loads((folder / "sweep.json").read_text())["runs"]
    first, second = (folder / f"seed={seed}" for seed in (0, 1))
    assert [run["run_dir"] for run in runs] == [str(first), str(second)]
    assert [run["values"] for run in runs] == [{"seed": "0"}, {"seed": "1"}]
    training, judging = Records(second).jobs()
    array = training.job.removesuffix("_1")
    assert [run["job"] for run in runs] == [f"{array}_0", f"{array}_1"]
    assert runs[1]["job"] in shown
    judges = judging.job.removesuffix("_1")
    scripts = [folder / "cluster" / "submitit" / f"{job}_submission.sh" for job in (array, judges)]
    assert "\n".join(path.read_text() for path in scripts) == promised.replace("aftercorr:JOB", f"aftercorr:{array}")
    described = slurm.run("scontrol", "show", "job", judging.job)
    assert f"Dependency=aftercorr:{array}" in described

    slurm.run("scontrol", "release", training.job)
    assert slurm.wait_for(training.job, ENDED, 300) == "COMPLETED", story(folder)
    slurm.run("scancel", array, judges)
    assert json.loads((second / "run.json").read_text())["run"]["seed"] == 1
    assert len((second / "metrics.jsonl").read_text().splitlines()) == 2
    assert Path(training.log).is_file()
    assert not (first / "run.json").exists()


def test_a_script_requeues_what_a_container_cannot_and_what_follows_waits(slurm, tmp_path):
    """What ends the script of a container, with another command in its place that stops at first."""
    script = tmp_path / "script.sh"
    lines = [
        "#!/bin/bash",
        '[ -n "$SLURM_RESTART_COUNT" ] || (exit 75)',
        *containers.requeue_lines(3, [tmp_path / "cancelled"]),
    ]
    script.write_text("\n".join(lines) + "\n")
    output = ["--output", str(tmp_path / "%j.out")]
    job = slurm.run("sbatch", "--parsable", "--requeue", "--open-mode=append", *output, str(script))
    after = [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", *output]
    then = slurm.run("sbatch", "--parsable", *after, "--wrap", "true")
    assert slurm.wait_for(then, ENDED, 300) == "COMPLETED", (tmp_path / f"{job}.out").read_text()
    assert " Restarts=1 " in slurm.run("scontrol", "show", "job", job, "-o")
