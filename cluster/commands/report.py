"""``eyespot report RUN [RUN ...]``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working


@dataclass(kw_only=True, slots=True)
class Reporting:
    """Writes one page about a run, or about several side by side.

    Results with their intervals, curves, where the time went, settings, how to do it again; and, where there are a
    checkpoint and its shards, what the encoder sees: augmented views, reconstructions, patch features, attention,
    nearest neighbours, confusion, a map of the features. The page needs no network and no other file, so it can be
    sent as it is. It works on a run that is still going.

    For example:

    eyespot report runs/first

    eyespot report runs/mae runs/simclr --out comparison.html
    """

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]")]
    """Run folders: at most 8."""
    out: Path | None = None
    """The file; default: RUN/report.html, of several runs report.html in this folder."""
    look: bool = True
    """Show the encoders images: seconds on a GPU, minutes for a large encoder without one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoders look at them; auto = a GPU where there is one."""


def main(argv: list[str]) -> int:
    """Writes the report, prints its path, and returns the exit code."""
    wanted = parse(Reporting, argv, "eyespot report")
    with working("loading torch"):
        from eyespot.eval.report.report import write_report

    print(write_report(wanted.runs, wanted.out, look=wanted.look, device=wanted.device).resolve())
    if len(wanted.runs) == 1:
        say_next((["release", wanted.runs[0], "--license", "apache-2.0"], "a folder that timm loads (your licence)"))
    else:
        say_next((["eval", "compare", *wanted.runs], "which is better? sample by sample"))
    return ExitCode.DONE
