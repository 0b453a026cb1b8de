"""Whether a job that was stopped goes on by itself: what SLURM means to do with it, and asking it to start it again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eyespot.cluster import slurm
from eyespot.cluster.processes import Place
from eyespot.data_pipeline.terminal import plural

ANSWER_SECONDS = 20.0
"""A controller that restarts is silent for some seconds; SLURM's KILL comes after 30 by default."""
_RETRY_SECONDS = 2.0


@dataclass(kw_only=True, slots=True, frozen=True)
class RequeuePlan:
    """What to do with the job, and why in plain words."""

    do: Literal["requeue", "leave", "end"]
    """requeue = ask SLURM to; leave = SLURM has done so already; end = it is over."""
    why: str


def after_stop(job: slurm.Job | None, place: Place, *, cancelled: bool, max_requeues: int) -> RequeuePlan:
    """What to do once a signal has stopped the ranks.

    Measured on Slurm 22.05 while the processes of a job still run after TERM: a job that is requeued, by hand, by
    preemption or for a lost node, is COMPLETING and its count of restarts has grown; at its time limit it is COMPLETING
    with the reason TimeLimit and may still be requeued; one that somebody cancels is COMPLETING and nothing else.
    ``scontrol requeue`` would bring that one back too, so it must not be asked.

    Args:
        job: what SLURM says of it; None where it says nothing.
        place: of this node, with the count of requeues at its start.
        cancelled: whether somebody asked for a stop by ``eyespot cancel``.
        max_requeues: that the user allows.
    """
    if cancelled:
        return RequeuePlan(do="end", why="cancelled")
    if job is None:
        return RequeuePlan(do="end", why="SLURM does not say what it wants of the job")
    if (job.restarts or 0) > place.requeues:
        return RequeuePlan(do="leave", why="SLURM requeued the job (preemption, a lost node, or scontrol requeue)")
    timed_out = job.reason == "TimeLimit" or job.state == "TIMEOUT"
    if not timed_out and job.state not in ("RUNNING", "SIGNALING", "PREEMPTED", "SUSPENDED"):
        return RequeuePlan(do="end", why="the job was cancelled")
    why = "the time limit was reached" if timed_out else "a signal asked for a stop"
    if place.requeues >= max_requeues:
        return RequeuePlan(
            do="end", why=f"{why}, and the job was requeued {plural(place.requeues, 'time')}, the most it may"
        )
    return RequeuePlan(do="requeue", why=why)


def ask(job: str) -> slurm.Job | None:
    """What SLURM says of the job; None where it does not know it or does not answer for some time."""
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return slurm.find_job(job)
        except slurm.SlurmError:
            if time.monotonic() > until or not slurm.available():  # in a container; the job's script knows what to do
                return None
        time.sleep(_RETRY_SECONDS)


def requeue_avoiding(job: str, *, avoid: Sequence[str] = ()) -> str | None:
    """Puts the job back into the queue, away from some nodes.

    Returns:
        None, or why it could not be done, in one line.
    """
    try:
        slurm.requeue(job)
    except slurm.SlurmError as error:
        return str(error)
    if not avoid:
        return None
    until = time.monotonic() + ANSWER_SECONDS
    while True:  # possible as soon as the job is pending
        try:
            slurm.exclude(job, avoid)
            return None
        except slurm.SlurmError:
            if time.monotonic() > until:
                return None  # the next start looks at its nodes, and asks again
        time.sleep(_RETRY_SECONDS)
