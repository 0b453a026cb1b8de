"""``eyespot launch -- curate COMMAND SHARDS OUT``: the ranks of one job, on one node or several, share the work.

A job that SLURM stops (a time limit, a preemption, a lost node) is queued again, and ranks that are killed start again:
both go on with the features, hashes and clusters that are done. ``OUT/.launch`` holds the code as it was when it was
submitted, the script and the logs.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from eyespot.cluster import slurm
from eyespot.cluster.launch import containers
from eyespot.cluster.launch.code_snapshot import freeze_code
from eyespot.cluster.launch.pack_array import JOBS, refuse_living
from eyespot.cluster.launch.submission import Submission
from eyespot.cluster.launch.submit import (
    DEAF,
    Executor,
    asked_of_slurm,
    cores_of_srun,
    further_options,
    hand_over,
)
from eyespot.cluster.processes import Place
from eyespot.cluster.supervisor.command_ranks import run_again_until_done
from eyespot.cluster.supervisor.node_job import here
from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.parts.task_part import LAUNCH
from eyespot.data_pipeline.terminal import filter_output
from eyespot.pretrain.redaction import mask_tracebacks


@dataclass(kw_only=True, slots=True)
class CurateJob:
    """What submitit pickles and each node calls."""

    words: tuple[str, ...]
    processes: int
    max_restarts: int
    meetings: Path

    def __call__(self) -> None:
        """Runs the ranks of this node.

        Raises:
            SystemExit: it failed; with its exit code, so that SLURM's state tells.
        """
        filter_output()
        mask_tracebacks()
        if code := run_again_until_done(self.words, here(self.processes), self.meetings, self.max_restarts):
            raise SystemExit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Told by submitit that the time is nearly over: the same once more."""
        return DelayedSubmission(self)


def check_curate(submission: Submission, out: Path, *, local: bool, dry_run: bool = False) -> None:
    """Raises a UserError where it cannot be launched like that."""
    for name, usual in (("container", None), ("then", ())):
        if (value := getattr(submission, name)) != usual:
            raise UserError(f"{name} {value}: curate is launched without a container, and without --then; leave it")
    if local and submission.nodes > 1:
        raise UserError(f"nodes {submission.nodes}: --local has one; use --processes-per-node, or leave out --local")
    if not (local or dry_run) and not slurm.available():
        raise UserError("launch: no SLURM on this machine (no sbatch); start the ranks here with --local")
    refuse_living(out, "out")


def script(submission: Submission, out: Path) -> str:
    """The sbatch script that ``submit_curate`` would hand to SLURM. Nothing is written."""
    executor = _executor(submission, out)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submit_curate(submission: Submission, words: Sequence[str], out: Path) -> str:
    """Submits the job; returns its id.

    Raises:
        UserError: SLURM refuses, or the folder cannot be written.
    """
    folder = out / LAUNCH
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out {out}: cannot be written ({error.strerror}); name another folder") from error
    freeze_code(folder / "code", "")
    limits: dict[str, Any] = {"processes": submission.processes, "max_restarts": submission.max_restarts}
    job = CurateJob(words=tuple(words), meetings=folder / "meetings", **limits)
    (submitted,) = hand_over(_executor(submission, out), [job])
    atomic_files.write_bytes(folder / JOBS, json.dumps({"jobs": [submitted.job_id]}).encode())
    return submitted.job_id


def curate_here(submission: Submission, words: Sequence[str]) -> int:
    """Runs the ranks on this machine; returns the exit code. Ranks that are killed start again."""
    place = Place(index=0, nodes=("localhost",), processes=submission.processes, job=str(os.getpid()), requeues=0)
    with tempfile.TemporaryDirectory() as meetings:
        return run_again_until_done(words, place, Path(meetings), submission.max_restarts)


def _executor(submission: Submission, out: Path) -> Executor:
    """submitit's writer of the sbatch script."""
    start = containers.start_command(submission, out / LAUNCH / "code", [], [])
    more: dict[str, Any] = {"signal": f"USR2@{submission.save_seconds}", "requeue": True, **further_options(submission)}
    executor = Executor(out / LAUNCH / "submitit", max_num_timeout=submission.max_requeues, python=start.python)
    executor.update_parameters(
        job_name=submission.name or f"curate-{out.name}",
        setup=[DEAF, *submission.setup],
        srun_args=cores_of_srun(submission),
        additional_parameters=more,
        **asked_of_slurm(submission),
    )
    return executor
