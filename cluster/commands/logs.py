"""``eyespot logs``: read a run's logs, as they grow."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Ge

from eyespot.cluster.arguments import parse
from eyespot.cluster.help_text import show_help
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import plural

if TYPE_CHECKING:
    from eyespot.cluster.status.logs import Line
    from eyespot.data_pipeline.console import Console

HELP = """usage: eyespot logs RUN [--rank R | --all-ranks | --job] [--follow] [--lines N]

The newest lines of a run's log: of rank 0, of another rank, or of all ranks in the order of their times.

  --job       what SLURM caught of the newest job: what was said before the run could log, and why it could not start
  --follow    goes on showing what is written, through requeues and restarts, until the run is over
  --lines N   of each log to begin with (20)

  eyespot logs runs/big
  eyespot logs runs/big --all-ranks --follow
  eyespot logs runs/big --job --lines 100

Exit codes: 0 done, 2 the input is wrong, 1 anything else.
"""
_COLOURS = {"ERROR": "red", "WARNING": "yellow"}


@dataclass(kw_only=True, slots=True)
class Request:
    """Show a run's log."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder."""
    rank: int | None = None
    """Whose log; without it rank 0."""
    all_ranks: tyro.conf.FlagCreatePairsOff[bool] = False
    """The logs of all ranks."""
    job: tyro.conf.FlagCreatePairsOff[bool] = False
    """The output of the newest job."""
    follow: tyro.conf.FlagCreatePairsOff[bool] = False
    """Until the run is over."""
    lines: Annotated[int, Ge(0)] = 20
    """Of each log to begin with."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")
        if (self.rank is not None) + self.all_ranks + self.job > 1:
            raise UserError("--rank, --all-ranks and --job: name only one of them")


def main(argv: list[str]) -> int:
    """Runs the command."""
    if not argv or argv[0] in ("-h", "--help"):
        show_help(HELP)
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    request = parse(Request, argv, prog="eyespot logs")
    with contextlib.suppress(KeyboardInterrupt):  # how one leaves --follow
        _show(request)
    return ExitCode.DONE


def _show(request: Request) -> None:
    from eyespot.cluster.status import logs
    from eyespot.cluster.status.survey import find_runs, survey
    from eyespot.data_pipeline.console import Console

    run_dir = request.run_dir
    if (runs := find_runs([run_dir])) != [run_dir]:
        raise UserError(f"{run_dir}: holds {plural(len(runs), 'run')}; name one, for example {runs[0]}")
    if request.rank is not None:
        logs.check_rank(run_dir, request.rank)
    rank = None if request.all_ranks else request.rank or 0
    source = logs.job_output(run_dir) if request.job else logs.rank_logs(run_dir, rank)
    console, reader = Console(soft_wrap=True), logs.Reader(source, request.lines)
    if not source():
        _say(f"no {'output' if request.job else 'log'} yet; {logs.what_now(survey(runs).runs[0])}")
    _print(console, reader.first())
    for new in logs.follow(run_dir, reader, _say) if request.follow else ():
        _print(console, new)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _print(console: "Console", lines: "list[Line]") -> None:
    from rich.text import Text

    for line in lines:
        level = next((level for level in _COLOURS if f" {level} " in line.text[:40]), "")
        text = Text(f"{line.label} | " if line.label else "", style="dim")
        console.print(text.append(line.text, style=_COLOURS.get(level, "default")))
