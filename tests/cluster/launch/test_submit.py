"""What launch finds before anything is submitted, and what it would submit."""

import os
import re
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eyespot.cluster.cli import main
from eyespot.cluster.launch.submission import Submission
from eyespot.cluster.launch.submit import (
    _outside_of_jobs,
    check,
    check_folder,
    code_folder,
    freeze,
    job_words,
    scripts,
    submit,
)
from eyespot.cluster.launch.sweep import SweepMember, members, single
from eyespot.cluster.status.records import JobLine, Records
from eyespot.data_pipeline.errors import UserError


@pytest.fixture
def member(digits, tmp_path) -> SweepMember:
    words = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "runs" / "one"), "--data.batch-size", "16"]
    return single(["pretrain", "mae_tiny", *words])


def sbatch_options(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))


def srun_line(script: str) -> str:
    return next(line for line in script.splitlines() if line.startswith("srun "))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 3}, "data.batch_size 16: must be a multiple of 3 (3 nodes x 1 process x 1 micro-batch)"),
        ({"nodes": 2, "gpus_per_node": 16}, "data.batch_size 16: must be a multiple of 32"),
    ],
)
def test_what_cannot_run_is_one_line(member, values, message):
    with pytest.raises(UserError) as caught:
        check(Submission(**values), member)
    assert message in str(caught.value)


def test_a_package_of_a_mirror_that_is_not_here(member, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    member.run.wandb = "photographs"
    with pytest.raises(UserError, match=r"^wandb: the package is not installed; pip install"):
        check(Submission(), member)
    check(Submission(container="docker://image"), member)


def test_more_than_all_samples_in_a_batch_and_missing_shards(member):
    member.run.data.batch_size = 4096
    with pytest.raises(UserError, match=r"data\.batch_size 4096: more than the 1,438 samples"):
        check(Submission(), member)
    member.run.data.shards = None
    with pytest.raises(UserError, match=r"data\.shards: not given"):
        check(Submission(), member)


def test_first_weights_that_do_not_fit_are_found_before_the_job_waits_in_a_queue(member, tmp_path):
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    member.run.start.weights = tmp_path / "odd.safetensors"
    with pytest.raises(UserError, match=r"odd\.safetensors: cls_token is missing there"):
        check(Submission(), member)
    check(Submission(container=str(tmp_path / "other.sif"), container_runtime="apptainer"), member)
    member.run.run_dir.mkdir(parents=True)
    (member.run.run_dir / "run.json").write_text("{}")
    check(Submission(), member)


def test_a_folder_that_cannot_be_written(member, tmp_path):
    check_folder(tmp_path / "new" / "deeper")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run_dir .*/file/run: .*/file cannot be written"):
        check_folder(tmp_path / "file" / "run")


def test_a_folder_whose_jobs_slurm_cannot_tell_of_is_not_taken(tmp_path, monkeypatch):
    line = JobLine(job="7", kind="pretrain", submitted=time.time(), log="", nodes=1, processes=1)
    Records(tmp_path).add_job(line)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="was submitted before, and whether that job lives"):
        check_folder(tmp_path)


def test_a_run_goes_on_in_its_folder_and_a_branch_begins_where_it_was_told(member, tmp_path):
    run_dir = member.run.run_dir
    start = ("pretrain", "--from", str(run_dir / "cluster" / "run.json"), "--run-dir", str(run_dir), "--resume")
    assert job_words(member) == (*start, "auto")
    member.run.resume, member.run.stop_after = "/old/step-00000002", 5
    assert job_words(member) == (*start, "/old/step-00000002", "--stop-after", "5")
    (run_dir / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert job_words(member) == (*start, "auto", "--stop-after", "5")


def test_the_script_says_what_was_asked(member, tmp_path):
    submission = Submission(
        nodes=2, gpus_per_node=8, cpus_per_task=96, mem="0", time="12h", partition="gpu", account="vision", qos="long",
        constraint="a100", exclude="node7", setup=("module load cuda",), sbatch=("reservation=big", "exclusive"),
        save_seconds=300, name="first try",
    )  # fmt: skip
    (script,) = scripts(member.run.run_dir, submission, [member])
    logs = f"{member.run.run_dir}/cluster/submitit/%j_0_log"
    assert sbatch_options(script) == {
        "nodes": "2", "gpus-per-node": "8", "cpus-per-task": "96", "mem": "0", "time": "720", "partition": "gpu",
        "account": "vision", "qos": "long", "constraint": "a100", "exclude": "node7", "reservation": "big",
        "exclusive": "", "signal": "USR1@300", "requeue": "", "open-mode": "append", "job-name": "'first try'",
        "ntasks-per-node": "1", "output": f"{logs}.out", "error": f"{logs}.err",
    }  # fmt: skip
    assert "--cpus-per-task=96" in srun_line(script)
    assert script.index("module load cuda") < script.index("\nsrun ")
    assert f"PYTHONPATH={member.run.run_dir}/cluster/code" in srun_line(script)
    assert not (tmp_path / "runs").exists()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_evaluations_follow_the_run_one_after_the_other(member):
    submission = Submission(nodes=2, then=("eval",), time="2h")
    _, first, second = map(sbatch_options, scripts(member.run.run_dir, submission, [member]))
    assert (first["dependency"], second["dependency"]) == ("afterok:JOB", "afterok:JOB,afterany:JOB")
    assert {name: first[name] for name in ("nodes", "job-name", "kill-on-invalid-dep")} == {
        "nodes": "1",
        "job-name": "one-eval",
        "kill-on-invalid-dep": "yes",
    }
    assert "USR1" not in first["signal"]


def test_a_sweep_is_one_array_with_one_copy_of_the_code(digits, tmp_path):
    words = ["pretrain", "mae_tiny", "--data.shards", str(digits), "--run-dir", str(tmp_path / "rates")]
    runs = members(words, ["seed=0,1,2"])
    submission = Submission(array_parallelism=2, then=("eval", "knn"))
    train, judge = scripts(tmp_path / "rates", submission, runs)
    assert sbatch_options(train)["array"] == "0-2%2"
    assert sbatch_options(judge) | {"array": "0-2%3", "dependency": "aftercorr:JOB"} == sbatch_options(judge)
    code = code_folder(tmp_path / "rates", runs)
    freeze(code, runs)
    for member in runs:
        records = Records(member.run.run_dir)
        assert records.code.readlink() == Path("../../cluster/code")
        assert (records.code / "eyespot" / "__init__.py").exists()
        assert records.run_file.exists()
    later = code_folder(tmp_path / "rates", runs[:1])
    assert later == code.with_name("code-2"), "the first sweep may be queued still"
    freeze(later, runs[:1])
    frozen = [Records(member.run.run_dir).code.readlink().name for member in runs]
    assert frozen == ["code-2", "code", "code"]


def test_in_a_container_run_code_and_shards_are_seen_and_a_stop_is_requeued_outside(member, digits):
    image = "docker://team/eyespot:1"
    submission = Submission(container=image, gpus_per_node=1, max_requeues=9, then=("eval", "knn"))
    train, judge = scripts(member.run.run_dir, submission, [member])
    runs = member.run.run_dir.parent
    assert f"--container-mounts={runs}:{runs},{digits}:{digits}:ro" in srun_line(train)
    assert train.rstrip().endswith('exit "$code"')
    assert "-lt 9 ]" in train
    assert "scontrol requeue" not in judge
    subprocess.run(["bash", "-n"], input=train, text=True, check=True)
    apptainer = replace(submission, container_runtime="apptainer")
    assert f"apptainer exec --nv --no-home --bind {runs}:{runs}," in srun_line(
        scripts(runs / "one", apptainer, [member])[0]
    )


def test_the_job_in_which_launch_is_typed_is_not_handed_on(monkeypatch):
    """And what a shell sets for sbatch does not overrule what launch decides; an account is the user's to set."""
    handed_on = {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "RANK"}
    owned = {f"SBATCH_{name}" for name in ("ARRAY_INX", "OUTPUT", "ERROR", "REQUEUE", "NO_REQUEUE", "SIGNAL", "WAIT")}
    kept = {"SLURM_CONF", "OTHER", "SBATCH_ACCOUNT", "SBATCH_PARTITION"}
    for name in handed_on | owned | kept:
        monkeypatch.setenv(name, "5")
    before = dict(os.environ)
    with _outside_of_jobs():
        assert kept <= set(os.environ)
        assert set(os.environ).isdisjoint(handed_on | owned)
    assert dict(os.environ) == before


@pytest.fixture
def sbatch(monkeypatch, tmp_path) -> Path:
    """Programs of SLURM that say what real ones say; what sbatch was given lies in the folder, as ``environment``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    said = {
        "sbatch": f"env > {folder}/environment\necho Submitted batch job 123",
        "scontrol": "echo 'MaxArraySize            = 2'",
    }
    for name, script in said.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_job_files_are_the_users_alone_and_sbatch_hears_no_orders_of_the_shell(member, sbatch, monkeypatch):
    """They hold settings, code that runs, and lines of the user's own."""
    monkeypatch.setenv("SBATCH_REQUEUE", "no")
    monkeypatch.setenv("SBATCH_ACCOUNT", "vision")
    folder, before = member.run.run_dir, os.umask(0o022)
    try:
        code = code_folder(folder, [member])
        freeze(code, [member])
        assert submit(folder, code, Submission(), [member])
    finally:
        os.umask(before)
    records = Records(folder)
    files = [records.run_file, records.submission_file, *records.submitit.glob("*submi*")]
    assert len(files) >= 4
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {path.name: 0o600 for path in files}
    heard = (sbatch / "environment").read_text()
    assert "SBATCH_ACCOUNT=vision" in heard and "SBATCH_REQUEUE" not in heard


def test_a_sweep_beyond_the_clusters_arrays_is_refused_before_anything_is_copied(digits, sbatch, tmp_path, capsys):
    words = ["mae_tiny", "--data.shards", str(digits), "--run-dir", str(tmp_path / "rates"), "--data.batch-size", "16"]
    assert main(["launch", "--sweep", "seed=0,1,2", "--", "pretrain", *words]) == 2
    said = capsys.readouterr().err
    assert "sweep: 3 runs, and an array of this cluster has at most 2 (MaxArraySize)" in said
    assert not (tmp_path / "rates").exists() and not (sbatch / "environment").exists()
