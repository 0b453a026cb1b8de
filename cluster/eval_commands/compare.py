"""``eyespot eval compare A B``: which of several results is better, as far as the test samples can tell."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, product
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.pretrain.run_record import RunRecord

if TYPE_CHECKING:
    from rich.table import Table

    from eyespot.data_pipeline.console import Console
    from eyespot.eval.results.compare import Comparison, Difference, Method

MOST_RUNS = 8
"""Of a report."""


@dataclass(kw_only=True, slots=True)
class Comparing:
    """Says which of several results is better, as far as the test samples can tell.

    Every pair is compared sample by sample, on the same test samples: exact McNemar test, paired bootstrap interval of
    the difference, Holm's correction for the number of comparisons. Results of masks are compared by the mIoU of each
    image, in a paired t-test. Results on other data or of another protocol are refused. Nothing is computed anew.

    Runs that differ in nothing but their seed are one method: its mean comes with a t-interval over the seeds, and
    methods are compared by Welch's test. One run alone is compared with random weights and raw pixels.

    For example:

    eyespot eval compare runs/mae runs/simclr --protocol linear

    eyespot eval compare runs/mae-seed* runs/simclr-seed* --protocol knn --plot differences.png

    eyespot eval compare runs/first/eval/linear_*_step-00000500.json runs/first/eval/linear_*_step-00001000.json
    """

    places: Annotated[tuple[Path, ...], Positional, arg(metavar="A [B ...]")]
    """Run folders (the newest checkpoint that was judged counts), folders of results, or result files."""
    protocol: str | None = None
    """Which results of a folder: knn, linear, ...; needed where the folders hold several."""
    baselines: bool = False
    """Compare with random weights and raw pixels, too."""
    across_protocols: bool = False
    """Allow result files of different protocols."""
    paired_seeds: bool = False
    """Compare methods seed by seed (paired t-test) instead of by Welch's test: for seeds that make their runs alike."""
    json: bool = False
    """Print JSON instead of tables."""
    plot: Path | None = None
    """Draw the differences with their intervals into this file (.png, .svg, .pdf)."""


def main(argv: list[str]) -> int:
    """Compares, prints, and returns the exit code."""
    wanted = parse(Comparing, argv, "eyespot eval compare")
    if not wanted.places:
        raise UserError("compare: no results named; write: eyespot eval compare A B (see eyespot eval compare --help)")
    from eyespot.data_pipeline.console import Console
    from eyespot.eval.results.compare import compare

    found = compare(
        wanted.places,
        protocol=wanted.protocol,
        baselines=wanted.baselines,
        across_protocols=wanted.across_protocols,
        paired_seeds=wanted.paired_seeds,
    )
    if wanted.plot is not None:
        write_plot(found, wanted.plot)
    if wanted.json:
        print(json.dumps(found.values(), indent=1, allow_nan=False))
    else:
        print_comparison(found, Console())
        if runs := [place for place in wanted.places if RunRecord.path(place).is_file()][:MOST_RUNS]:
            say_next((["report", *runs], "the same on one page, with curves and views"))
    return ExitCode.DONE


def print_comparison(found: "Comparison", console: "Console") -> None:
    """Tables, and what they mean."""
    from eyespot.eval.results.compare import LEVEL

    title = f"{' and '.join(found.protocols)} on {found.data}: {found.num_test:,} test samples ({found.split})"
    letters = dict(zip((standing.label for standing in found.standings), _letters(), strict=False))
    console.print(_standings(found, letters, title))
    if found.pairs:
        console.print(_differences(found.pairs, letters, "These weights, sample by sample"))
        several = f"; verdicts hold for all {len(found.pairs)} together (Holm)" if len(found.pairs) > 1 else ""
        test = "exact sign-flip" if all(pair.only_a is None for pair in found.pairs) else "exact McNemar"
        test, interval = ("paired t", "Student's t") if found.graded else (test, "paired bootstrap")
        print(f"Difference in points; p of the {test} test; interval: {interval}, for each comparison alone.")
        print(f"Shown is what has a p of at most {LEVEL}{several}.")
    if not found.methods:
        print(
            "One seed of each: how much another seed would change them is unknown. To say something about the methods,"
            "\ntrain each with several seeds and name all runs here."
        )
        return
    numbers = {method.label: f"M{place}" for place, method in enumerate(found.methods, 1)}
    console.print(_methods(found.methods, numbers))
    if found.method_pairs:
        console.print(_differences(found.method_pairs, numbers, "Methods, over seeds"))
    print("Intervals over seeds hold for these test samples.")
    if any(len(method.accuracies) == 1 for method in found.methods):
        print("n = 1: the spread over seeds is unknown.")


def _letters() -> Iterator[str]:
    """A, B, ..., Z, AA, AB, ..."""
    words = chain.from_iterable(product(ascii_uppercase, repeat=length) for length in count(1))
    return map("".join, words)


def _table(title: str, *columns: str) -> "Table":
    """The columns whose names begin with a space are flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        justify = "right" if column.startswith(" ") else "left"
        table.add_column(column.strip(), justify=justify, no_wrap="interval" in column)
    return table


def _standings(found: "Comparison", letters: dict[str, str], title: str) -> "Table":
    table = _table(title, "", "result", f" {found.share}", " 95% interval", "metric")
    for standing in found.standings:
        low, high = standing.interval
        row = standing.label, f"{standing.accuracy:.2%}", f"{low:.2%} to {high:.2%}", standing.metric
        table.add_row(letters[standing.label], *row)
    return table


def _differences(pairs: "list[Difference]", names: dict[str, str], title: str) -> "Table":
    samples = any(pair.only_a is not None for pair in pairs)
    right = (" only one right",) if samples else ()
    table = _table(title, "", " points", " 95% interval", *right, " p", " p, Holm", "verdict")
    for pair in pairs:
        interval = f"{_points(pair.interval[0])} to {_points(pair.interval[1])}" if pair.interval else "unknown"
        cells = [f"{names[pair.a]} - {names[pair.b]}", _points(pair.value), interval]
        cells += [f"{pair.only_a} : {pair.only_b}"] if samples else []
        table.add_row(*cells, _p(pair.p), _p(pair.p_holm), pair.verdict(names))
    return table


def _methods(methods: "list[Method]", names: dict[str, str]) -> "Table":
    table = _table("Methods: runs that differ in their seed alone", "", "runs", " n", " mean", " 95% t-interval")
    for method in methods:
        interval = f"{method.interval[0]:.2%} to {method.interval[1]:.2%}" if method.interval else "unknown"
        table.add_row(names[method.label], method.label, str(len(method.accuracies)), f"{method.mean:.2%}", interval)
    return table


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _p(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def write_plot(found: "Comparison", path: Path) -> None:
    """Draws every difference with its interval; those that count as shown are filled.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    pairs = [pair for pair in [*found.pairs, *found.method_pairs] if pair.interval is not None]
    if not pairs:
        raise UserError(f"--plot {path}: there is no difference with an interval to draw")
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for row, pair in enumerate(pairs):
        low, high = pair.interval or (0.0, 0.0)
        shown = pair.verdict().endswith("is better")
        color = "#0b7268" if shown else "#87909a"
        axes.plot([100 * low, 100 * high], [row, row], color=color, linewidth=2)
        axes.plot(100 * pair.value, row, "o", color=color, markerfacecolor=color if shown else "white")
    axes.axvline(0, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(pairs)), [f"{pair.a}\nminus {pair.b}" for pair in pairs], fontsize=8)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlabel("difference in points, with 95 % interval; filled: shown (Holm, 0.05)")
    axes.set_title(f"{' and '.join(found.protocols)} on {found.data}", loc="left")
    axes.grid(axis="x", alpha=0.3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # matplotlib raises ValueError for an ending that it does not know
        raise UserError(f"--plot {path}: cannot be written ({error})") from error
