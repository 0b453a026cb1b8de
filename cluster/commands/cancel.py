"""``eyespot cancel``: stop a run."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Le

from eyespot.cluster.arguments import parse
from eyespot.cluster.help_text import show_help
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges

HELP = """usage: eyespot cancel RUN [--now] [--wait-seconds 300]

Stops a run that was submitted, or all runs of a sweep. One that waits leaves the queue. One that trains saves a
checkpoint and ends; the command waits for it, and SLURM ends what is not done in time. Evaluations that were to follow
are cancelled too. Nothing of it is requeued; eyespot launch --again RUN goes on from the checkpoint.

  --now                 do not wait for a checkpoint: what was computed since the last one is lost
  --wait-seconds 300    for the checkpoint

Exit codes: 0 done, 2 the input is wrong or there is nothing to cancel, 1 anything else.
"""


@dataclass(kw_only=True, slots=True)
class Request:
    """Stop a run."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder, or that of a sweep."""
    now: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do not wait for a checkpoint."""
    wait_seconds: Annotated[float, Ge(0), Le(math.inf), "must be 0 or more"] = 300.0
    """For the checkpoint."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")


def main(argv: list[str]) -> int:
    """Runs the command."""
    if not argv or argv[0] in ("-h", "--help"):
        show_help(HELP)
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    request = parse(Request, argv, prog="eyespot cancel")
    from eyespot.cluster.slurm import SlurmError

    try:
        return _cancel(request)
    except SlurmError as error:
        print(f"eyespot: {error}", file=sys.stderr)
        return ExitCode.FAILED


def _cancel(request: Request) -> int:
    from eyespot.cluster.status import cancel
    from eyespot.cluster.status.survey import find_runs
    from eyespot.data_pipeline.console import Console

    targets = cancel.find_targets(find_runs([request.run_dir]))
    cancel.ask_to_stop(targets, now=request.now)
    for job in targets.others:
        print(f"job {job.id}: cancelled")
    if request.now:
        for job in targets.trainings:
            print(f"job {job.id}: ends now")
        return ExitCode.DONE
    console = Console(stderr=True)
    if targets.trainings and not console.is_terminal:
        jobs = ", ".join(job.id for job in targets.trainings)
        print(f"job {jobs}: asked to save and end", file=sys.stderr, flush=True)
    try:
        with console.status("") as spinner:
            late = cancel.wait_for_end(targets, request.wait_seconds, spinner.update)
    except KeyboardInterrupt:
        print(f"the stop goes on without this command; watch it with: eyespot status {request.run_dir}")
        return ExitCode.FAILED
    for job in late:
        print(f"job {job}: not done within {request.wait_seconds:g} s; SLURM ends it now")
    for run_dir in targets.run_dirs:
        print(cancel.outcome(run_dir))
    return ExitCode.DONE
