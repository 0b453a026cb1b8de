"""``eyespot report RUN``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse


@dataclass(kw_only=True, slots=True)
class Reporting:
    """Writes RUN/report.html: results, pictures, curves, settings and how to do it again, in one file.

    The page needs no network and no other file, so it can be sent as it is. It works on a run that is still going.

    For example:

    eyespot report runs/first
    """

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run folder."""


def main(argv: list[str]) -> int:
    """Writes the report, prints its path, and returns the exit code."""
    wanted = parse(Reporting, argv, "eyespot report")
    from eyespot.eval.report import write_report

    print(write_report(wanted.run).resolve())
    return 0
