"""Stops submitted runs: what waits leaves the queue, what runs saves a checkpoint first."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eyespot.cluster import slurm
from eyespot.cluster.slurm import Job, SlurmError
from eyespot.cluster.status.records import Records
from eyespot.cluster.status.run_state import read_run_state
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural

POLL_SECONDS = 1.0
SIGNAL_SECONDS = 15.0
"""Between signals to a job that runs on: one that starts just now ignores the first."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Targets:
    """What there is to stop."""

    run_dirs: tuple[Path, ...]
    """Of the living jobs."""
    trainings: tuple[Job, ...]
    """Jobs that hold nodes and can save."""
    others: tuple[Job, ...]
    """Jobs that wait, and evaluations: nothing is lost with them but their work."""


def find_targets(run_dirs: Sequence[Path]) -> Targets:
    """The living jobs of these runs, also those that were submitted to follow them.

    Raises:
        UserError: there are none.
        SlurmError: SLURM does not answer.
    """
    lines = {run_dir: Records(run_dir).jobs() for run_dir in run_dirs}
    kinds = {line.job: line.kind for own in lines.values() for line in own}
    jobs = {id: job for id, job in slurm.find_jobs(kinds).items() if slurm.alive(job)}
    if not jobs:
        raise UserError(_nothing(run_dirs))
    training = [id for id, job in jobs.items() if kinds[id] == "pretrain" and _can_save(job)]
    return Targets(
        run_dirs=tuple(run_dir for run_dir, own in lines.items() if any(line.job in jobs for line in own)),
        trainings=tuple(jobs[id] for id in training),
        others=tuple(job for id, job in jobs.items() if id not in training),
    )


def ask_to_stop(targets: Targets, *, now: bool) -> None:
    """Takes from the queue what waits; from what trains, asks to save and end, or with ``now`` ends it too.

    From here on nothing of these runs is requeued.

    Raises:
        UserError: a run folder cannot be written.
        SlurmError: SLURM does not answer, or refuses.
    """
    for run_dir in targets.run_dirs:
        try:
            Records(run_dir).ask_cancel()
        except OSError as error:
            raise UserError(f"{run_dir}: cannot be written ({error.strerror}); use scancel") from error
    for job in (*targets.others, *(targets.trainings if now else ())):
        slurm.cancel(job.id)
    for job in () if now else targets.trainings:
        _signal(job)


def wait_for_end(targets: Targets, seconds: float, tell: Callable[[str], None]) -> list[str]:
    """Waits until the trainings have saved and ended.

    Args:
        targets: that were asked to stop.
        seconds: to wait; then SLURM ends what is left.
        tell: is told now and then what it waits for.

    Returns:
        Jobs that did not end in time.

    Raises:
        SlurmError: SLURM does not answer at the end of the time, or refuses.
    """
    left, began, signalled = list(targets.trainings), time.monotonic(), time.monotonic()
    while left and time.monotonic() - began < seconds:
        tell(_waits_for(left, began + seconds - time.monotonic()))
        time.sleep(POLL_SECONDS)
        again = time.monotonic() - signalled >= SIGNAL_SECONDS
        try:
            found = slurm.find_jobs(job.id for job in left)
            left = [job for job in found.values() if slurm.alive(job)]
            for job in left:
                if not _can_save(job):  # requeued, by a preemption at the same moment
                    slurm.cancel(job.id)
                elif again and job.state == "RUNNING":
                    _signal(job)
        except SlurmError:
            continue  # a controller that restarts; at the end of the time it has to answer
        signalled = time.monotonic() if again else signalled
    for job in left:
        slurm.cancel(job.id)
    return [job.id for job in left]


def outcome(run_dir: Path) -> str:
    """What is left of a run that was stopped, in one line."""
    run_state = read_run_state(run_dir)
    if run_state.steps is not None and run_state.step >= run_state.steps:
        return f"{run_dir}: done, step {run_state.step:,}"
    if run_state.checkpoint_step is None:
        return f"{run_dir}: cancelled before its first checkpoint; start it with: eyespot launch --again {run_dir}"
    kept = f"step {run_state.step:,}, checkpoint of step {run_state.checkpoint_step:,}"
    return f"{run_dir}: stopped at {kept}; go on with: eyespot launch --again {run_dir}"


def _can_save(job: Job) -> bool:
    return job.state in ("RUNNING", "COMPLETING", "SIGNALING", "SUSPENDED", "STAGE_OUT")


def _signal(job: Job) -> None:
    try:
        slurm.send_signal(job.id, "USR1")
    except SlurmError:
        now = slurm.find_job(job.id)
        if now is not None and now.state == "RUNNING":  # otherwise it ended just now
            raise


def _waits_for(jobs: list[Job], seconds: float) -> str:
    names = ", ".join(job.id for job in jobs[:4]) + (f" and {len(jobs) - 4} more" if len(jobs) > 4 else "")
    ending = all(job.state == "COMPLETING" for job in jobs)
    doing = "to end on all nodes" if ending else "to save and end"
    return f"waiting for job {names} {doing} (at most {seconds:.0f} s; Ctrl-C leaves it to itself)"


def _nothing(run_dirs: Sequence[Path]) -> str:
    """Why there is nothing to cancel."""
    if len(run_dirs) > 1:
        return f"nothing to cancel: none of the {plural(len(run_dirs), 'run')} has a job that waits or runs"
    run_dir = run_dirs[0]
    lines, run_state = Records(run_dir).jobs(), read_run_state(run_dir)
    if run_state.holder is not None:
        pid = run_state.holder
        return f"{run_dir}: no job, it runs on this machine; to save and stop it: kill -TERM {pid}"
    if not lines:
        return f"{run_dir}: nothing to cancel, it was not submitted to SLURM"
    return f"{run_dir}: nothing to cancel, job {lines[-1].job} is over"
