"""``eyespot status``: what the runs are doing."""

import contextlib
import itertools
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Gt

from eyespot.cluster.arguments import parse
from eyespot.cluster.help_text import show_help
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges

if TYPE_CHECKING:
    from rich.console import RenderableType

    from eyespot.cluster.status.survey import Survey
    from eyespot.data_pipeline.console import Console

HELP = """usage: eyespot status [RUN or folder of runs ...] [--watch [SECONDS]] [--json]

What the runs are doing: state and SLURM's reason for it in plain words, nodes, step, loss, images/s, time left, last
checkpoint, requeues, and what else matters. One run alone is shown with its jobs, attempts, nodes and checkpoints.
Without a folder: those in runs/. Needs no accounting; where SLURM does not answer, the folders tell what they know.

  eyespot status
  eyespot status runs/big
  eyespot status runs sweeps/lr --watch       refreshed every 5 seconds, until Ctrl-C
  eyespot status --json                       for scripts; --watch writes one object per line

Exit codes: 0 done, 2 the input is wrong, 1 anything else.
"""
_WATCH_SECONDS = "5"


@dataclass(kw_only=True, slots=True)
class Request:
    """Show what the runs are doing."""

    places: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, and folders of runs."""
    watch: Annotated[float, Gt(0), "must be above 0 seconds"] | None = None
    """Seconds between refreshes."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """One JSON object instead of a table."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")


def main(argv: list[str]) -> int:
    """Runs the command."""
    if argv and argv[0] in ("-h", "--help"):
        show_help(HELP)
        return ExitCode.DONE
    request = parse(Request, _with_seconds(argv), prog="eyespot status")
    if request.watch is None:
        survey = _show_once(request.places, request.json)
        if survey.runs and not request.json:
            _say_next(survey)
        return ExitCode.DONE
    with contextlib.suppress(KeyboardInterrupt):
        _watch(request.places, request.watch, request.json)
    return ExitCode.DONE


def _with_seconds(argv: list[str]) -> list[str]:
    """Gives a bare ``--watch`` its seconds."""
    words = []
    for word, after in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        words.append(word)
        if word == "--watch" and not re.fullmatch(r"-?\d+(\.\d+)?", after):
            words.append(_WATCH_SECONDS)
    return words


def _watch(places: Sequence[Path], seconds: float, as_json: bool) -> None:
    from rich.live import Live

    from eyespot.data_pipeline.console import Console

    console = Console()
    if as_json or not console.is_terminal:
        while True:
            _show_once(places, as_json, indent=None)
            time.sleep(seconds)
    _, page = _look(places, console)
    with Live(page, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                time.sleep(seconds)
                _, page = _look(places, console)
                live.update(page, refresh=True)
        finally:
            live.stop()
            console.print(page)


def _say_next(survey: "Survey") -> None:
    first = survey.runs[0]
    live = next((status for status in survey.runs if status.state in ("running", "stopping")), None)
    if live is not None:
        say_next((["logs", live.run, "--follow"], "its log as it grows"))
    elif first.state == "done":
        say_next((["report", first.run], "one page: results, curves, views"))
    else:
        say_next((["logs", first.run], "the last lines of its log"))


def _show_once(places: Sequence[Path], as_json: bool, indent: int | None = 1) -> "Survey":
    from eyespot.data_pipeline.console import Console

    console = Console()
    survey, page = _look(places, console)
    if as_json:
        sys.stdout.write(json.dumps(survey.values(), indent=indent, allow_nan=False) + "\n")
        sys.stdout.flush()
    else:
        console.print(page)
    return survey


def _look(places: Sequence[Path], console: "Console") -> "tuple[Survey, RenderableType]":
    """Asks anew, also which runs there are."""
    from eyespot.cluster.status.page import detail_page, survey_page
    from eyespot.cluster.status.survey import find_runs, survey

    runs = find_runs(places)
    now = survey(runs)
    return now, (detail_page if list(places) == runs and len(runs) == 1 else survey_page)(now, console)
