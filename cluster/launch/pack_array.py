"""``eyespot launch --tasks N -- shards pack SRC DST``: a task of a job array for each share, and a job that merges.

A task that SLURM stops (a time limit, a preemption, a lost node) is queued again and goes on behind its last finished
shard; what runs is the code as it was when it was submitted. ``DST/.launch`` holds that code, the scripts and the logs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from eyespot.cluster import slurm
from eyespot.cluster.launch import containers
from eyespot.cluster.launch.code_snapshot import freeze_code
from eyespot.cluster.launch.submission import Submission
from eyespot.cluster.launch.submit import (
    DEAF,
    Executor,
    asked_of_slurm,
    cores_of_srun,
    further_options,
    hand_over,
)
from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.shards.parts.task_part import LAUNCH
from eyespot.data_pipeline.terminal import filter_output
from eyespot.pretrain.redaction import mask_tracebacks

JOBS = "jobs.json"


@dataclass(kw_only=True, slots=True)
class _Launched:
    """jobs.json."""

    jobs: list[str]


@dataclass(kw_only=True, slots=True)
class ShardsJob:
    """What submitit pickles and a node calls: an ``eyespot shards`` command, which goes on where it was killed."""

    words: tuple[str, ...]
    max_restarts: int

    def __call__(self) -> None:
        """Runs it.

        Raises:
            SystemExit: it failed; with its exit code, so that SLURM's state tells.
        """
        filter_output()
        mask_tracebacks()
        if code := _until_done(self.words, self.max_restarts):
            raise SystemExit(ExitCode.FAILED if code < 0 else code)

    def checkpoint(self) -> DelayedSubmission:
        """Told by submitit that the time is nearly over: the same once more."""
        return DelayedSubmission(self)


def check_pack(submission: Submission, tasks: int, destination: Path, *, local: bool) -> None:
    """Raises a UserError where it cannot be launched like that."""
    for name, usual in (("nodes", 1), ("container", None), ("then", ())):
        if (value := getattr(submission, name)) != usual:
            raise UserError(f"{name} {value}: a task of shards pack has one node, no container, no --then; leave it")
    if not local and not slurm.available():
        raise UserError("launch: no SLURM on this machine (no sbatch); start the tasks here with --local")
    if not local and tasks > (most := slurm.max_array_size()):
        raise UserError(f"tasks {tasks}: an array of this cluster has at most {most:,} (MaxArraySize); use fewer")
    refuse_living(destination, "destination")


def refuse_living(folder: Path, field: str) -> None:
    """Raises a UserError while a job lives that was launched into that folder before."""
    try:
        jobs = foreign_json.read(folder / LAUNCH / JOBS, _Launched).jobs
        found = slurm.find_jobs(jobs)
    except FileNotFoundError:
        return
    except (OSError, foreign_json.ForeignJsonError, slurm.SlurmError) as error:
        raise UserError(f"{folder / LAUNCH / JOBS}: whether those jobs live is not known ({error})") from error
    if alive := [found[job] for job in jobs if slurm.alive(found.get(job))]:
        raise UserError(
            f"{field} {folder}: job {alive[0].id} of an earlier launch lives ({slurm.in_words(alive[0])});"
            f" stop it first: scancel {alive[0].id.partition('_')[0]}"
        )


def task_words(words: Sequence[str], tasks: int) -> list[tuple[str, ...]]:
    """The command of each task."""
    return [(*words, "--task", f"{number}/{tasks}") for number in range(tasks)]


def scripts(submission: Submission, destination: Path, tasks: int) -> list[str]:
    """The sbatch scripts that ``submit_pack`` would hand to SLURM. Nothing is written."""
    array, merging = _executor(submission, destination, tasks), _executor(submission, destination, 1, "afterok:JOB")
    if tasks > 1:
        array.parameters["map_count"] = tasks
    return [one._make_submission_file_text(one._submitit_command_str, "") for one in (array, merging)]


def submit_pack(submission: Submission, words: Sequence[str], destination: Path, tasks: int) -> tuple[str, str]:
    """Submits the array and the job that merges; returns their ids.

    Raises:
        UserError: SLURM refuses, or the folder cannot be written.
    """
    (destination / LAUNCH).mkdir(mode=0o700, parents=True, exist_ok=True)
    freeze_code(destination / LAUNCH / "code", "")
    restarts = submission.max_restarts
    shares = [ShardsJob(words=task, max_restarts=restarts) for task in task_words(words, tasks)]
    jobs = hand_over(_executor(submission, destination, tasks), shares)
    ids = [job.job_id for job in jobs]
    array = ids[0].partition("_")[0]
    merge = ShardsJob(words=("shards", "merge", str(destination)), max_restarts=restarts)
    (merging,) = hand_over(_executor(submission, destination, 1, f"afterok:{array}"), [merge])
    launched = json.dumps({"jobs": [*ids, merging.job_id]})
    atomic_files.write_bytes(destination / LAUNCH / JOBS, launched.encode())
    return array, merging.job_id


def pack_here(submission: Submission, words: Sequence[str], destination: Path, tasks: int) -> int:
    """Runs the tasks on this machine, ``processes_per_node`` at once, and merges; returns the exit code.

    A task that dies, by whatever kill or outage, is started again, up to ``max_restarts`` times.
    """
    at_once = min(submission.processes, tasks)
    if not any(word.split("=")[0] == "--workers" for word in words):
        words = (*words, "--workers", str(max(1, len(os.sched_getaffinity(0)) // at_once)))

    with ThreadPoolExecutor(at_once) as pool:
        ends = [pool.submit(_until_done, task, submission.max_restarts) for task in task_words(words, tasks)]
        bad = {code for end in ends if (code := end.result())}
    if bad:
        return ExitCode.WRONG_INPUT if ExitCode.WRONG_INPUT in bad else ExitCode.FAILED
    return _until_done(("shards", "merge", str(destination)), submission.max_restarts)


def _until_done(words: Sequence[str], max_restarts: int) -> int:
    """Runs a command of eyespot, again where it was killed or met an outage; returns its exit code, or -signal."""
    command, code = [sys.executable, "-P", "-m", "eyespot.cluster.cli", *words], 0
    for attempt in range(max_restarts + 1):
        sys.stdout.flush()
        if (code := subprocess.run(command, check=False).returncode) in (ExitCode.DONE, ExitCode.WRONG_INPUT):
            break
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        what = "starts again" if attempt < max_restarts else "is given up"
        print(f"eyespot: shards {words[1]} {' '.join(words[-2:])}: {how}; {what}", file=sys.stderr, flush=True)
    return code


def _executor(submission: Submission, destination: Path, tasks: int, dependency: str | None = None) -> Executor:
    """submitit's writer of the sbatch script."""
    start = containers.start_command(submission, destination / LAUNCH / "code", [], [])
    more: dict[str, Any] = {"signal": f"USR2@{submission.save_seconds}", "requeue": True, **further_options(submission)}
    if dependency is not None:
        more["kill-on-invalid-dep"] = "yes"
    executor = Executor(destination / LAUNCH / "submitit", max_num_timeout=submission.max_requeues, python=start.python)
    name = submission.name or f"pack-{destination.name}"
    executor.update_parameters(
        job_name=name if dependency is None else f"{name}-merge",
        dependency=dependency,
        array_parallelism=submission.array_parallelism or tasks,
        setup=[DEAF, *submission.setup],
        srun_args=cores_of_srun(submission),
        additional_parameters=more,
        **asked_of_slurm(submission),
    )
    return executor
