"""What ``eyespot eval`` prints and tracks."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from eyespot.cluster.next_steps import after_evaluation
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.terminal import one_line, plural

if TYPE_CHECKING:
    from eyespot.eval.results.result import Result

MOST_COLUMNS = 9
"""Of a table; with more its numbers stand below each other, and the results side by side."""
LONGEST_NUMBER = 12
"""Characters; with longer ones, which tell their interval, too, they stand below each other as well."""


def track(model: str, results: "list[Result]") -> None:
    """Shows a tracked run's results in MLflow; where that fails, a warning says how it is done later."""
    from eyespot.data_pipeline.progress_bar import working
    from eyespot.eval.encoders.subject import run_of
    from eyespot.eval.results.mlflow_children import track_results
    from eyespot.pretrain.redaction import masked
    from eyespot.pretrain.run_json import load_run

    run_dir = run_of(model)
    if run_dir is None or not load_run(run_dir)[1].track:
        return
    try:
        with working("sending the results to MLflow"):
            track_results(run_dir, results)
    except (UserError, Outage) as error:
        print(one_line(masked(f"eyespot: warning: {error}")), file=sys.stderr)


def print_place(model: str, out: Path | None) -> None:
    """Where the results are, if nobody named the folder and it is no run's: it was made in the current one."""
    from eyespot.eval.encoders.subject import run_of
    from eyespot.eval.evaluate import results_folder

    if out is None and run_of(model) is None:
        print(f"Results and features are in {results_folder(model).resolve()}; --out names another folder.")


def print_next(model: str, out: Path | None, results: "list[Result]") -> None:
    """The commands that follow an evaluation."""
    from eyespot.eval.encoders.subject import run_of
    from eyespot.eval.evaluate import results_folder

    run_dir, last = run_of(model), results[-1]
    ours = out is None and run_dir is not None
    place = run_dir if ours and run_dir is not None else out or results_folder(model)
    after_evaluation(place, last.protocol, run=ours, compared=last.accuracy is not None)


def print_table(results: "list[Result]") -> None:
    """The results of one protocol on one data set, side by side."""
    from rich.table import Table

    from eyespot.data_pipeline.console import Console
    from eyespot.eval.results.tables import CHOSEN, class_table, depth_table, poolings, score_table, turned

    first = results[0]
    header, rows = score_table(results)
    console, scored = Console(), first.accuracy is not None
    numbers = slice(3, -1 if header[-1] == CHOSEN else None)
    long = any(len(cell) > LONGEST_NUMBER for row in rows for cell in row[numbers])
    wide = 1 + sum(3 + max(map(len, column)) for column in zip(header, *rows, strict=True)) > console.width
    below = len(header) > MOST_COLUMNS or (scored and (long or (wide and len(header) > len(rows) + 3)))
    if below:
        header, rows = turned(header, rows)
    classes = f": {plural(first.num_classes, 'class')}" if first.num_classes else ""
    table = Table(title=f"{first.protocol} on {first.data}{classes}", title_justify="left")
    for column in header:
        narrow = not column and (below or not scored)  # the names of the numbers stay on one line
        side = "left" if column in ("", CHOSEN) else "right"
        table.add_column(column, justify=side, no_wrap=narrow, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for title, (header, rows) in {
        "Accuracy on test by depth": depth_table(results),
        "Accuracy by class": class_table(results),
    }.items():
        if rows:
            table = Table(title=title, title_justify="left")
            for column in header:
                table.add_column(column, justify="left" if column == "class" else "right", overflow="fold")
            for row in rows:
                table.add_row(*row)
            console.print(table)
    for result in results:
        for alarm in result.alarms:
            print(one_line(f"Alarm, {result.name}: {alarm}"))
    for words in poolings(results):
        print(one_line(words))
    train = f"{first.num_train:,} training {first.samples}, " if first.num_train else ""
    print(one_line(f"{train}{first.tested} ({first.split})."))
