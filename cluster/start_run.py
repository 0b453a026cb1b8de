"""Starts a run in this process: from words to a Run, from a Run to an exit code."""

import os
import sys
from typing import TYPE_CHECKING

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.terminal import one_line
from eyespot.pretrain.distributed.exit_report import leave_words
from eyespot.pretrain.redaction import masked

if TYPE_CHECKING:
    from collections.abc import Callable

    from eyespot.data_pipeline.shards.shard_folder import ShardFolder
    from eyespot.pretrain.config import Run
    from eyespot.pretrain.distributed.process_group import World
    from eyespot.pretrain.monitors.monitor import MonitorOf


def train(
    recipe: str,
    run: "Run",
    then: "Callable[[World], None] | None" = None,
    shards: "ShardFolder | None" = None,
) -> ExitCode:
    """Trains, calls ``then`` while all ranks are still together, and says by the exit code how it ended.

    ``shards`` are the run's, where they are open already.
    """
    with working("loading DALI", shown=is_first()):
        from eyespot.pretrain.loop.run_end import OUTAGES, REFUSALS, TrainingError, in_words
        from eyespot.pretrain.trainer import fit
        from eyespot.pretrain.watchdog.rank_watch import RankFailure

    resume_if_restarted(run)
    try:
        return ExitCode.DONE if fit(run, recipe, monitors_of(run), then, shards) == "done" else ExitCode.STOPPED
    except RankFailure as error:  # it has been said
        leave_words("another rank", str(error), error.ranks)
        return ExitCode.FAILED
    except TrainingError as error:
        leave_words("training", str(error))
        return _failed(run, str(error))
    except OSError as error:  # its traceback is in the log
        if error.errno not in OUTAGES | REFUSALS:
            raise
        leave_words("training" if error.errno in REFUSALS else "crash", in_words(error))
        return _failed(run, f"the file system does not answer as it should: {in_words(error)}")


def resume_if_restarted(run: "Run") -> None:
    """A run that torchrun has started again goes on by itself."""
    from eyespot.pretrain.distributed.rendezvous import restarted

    if restarted() and run.resume == "never":
        run.resume = "auto"


def monitors_of(run: "Run") -> "list[MonitorOf]":
    """What looks at the encoder while it learns, if the run asks for it."""
    if not run.monitor_every:
        return []
    from eyespot.eval.drift_guard import DriftGuard
    from eyespot.eval.online_probe import OnlineProbe
    from eyespot.pretrain.monitors.collapse import CollapseMonitor

    guards = [DriftGuard] if run.start.weights or run.start.model else []
    probes = [] if guards and not run.start.guard else [OnlineProbe]
    return [CollapseMonitor, *probes, *guards]


def is_first() -> bool:
    """Whether this process is the one that speaks to a person."""
    return int(os.environ.get("RANK", 0)) == 0


def _failed(run: "Run", why: str) -> ExitCode:
    """Says it once."""
    if is_first():
        place = f"; see {run.run_dir / 'logs'}" if run.run_dir.is_dir() else ""
        print(one_line(masked(f"eyespot: {why}{place}")), file=sys.stderr)
    return ExitCode.FAILED


def requested(argv: list[str]) -> "tuple[str, Run]":
    """The recipe's name and the resolved Run that the words after ``eyespot pretrain`` ask for.

    Raises:
        UserError: one of them is wrong.
    """
    # Imported here, because `eyespot pretrain --help` should not wait for torch.
    with working("loading torch", shown=is_first()):
        from eyespot.cluster.config_files.request import asked

    request = asked(argv, "eyespot pretrain")
    if request.print_config:
        raise UserError(
            "--print-config: writes settings and starts nothing; write: eyespot pretrain ... --print-config"
        )
    return request.recipe, request.with_flags()
