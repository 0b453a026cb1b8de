"""``eyespot sync RUN``: bring the metrics of an offline run to MLflow."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.exit_codes import ExitCode


def sync_run(run_dir: Annotated[Path, tyro.conf.Positional], uri: str | None = None) -> int:
    """Sends what MLflow lacks of a run: metrics, pictures, status, results of evaluations. Repeating it does no harm.

    Args:
        run_dir: the run folder.
        uri: tracking URI; without it MLFLOW_TRACKING_URI, else mlflow.db beside the run folder.
    """
    from eyespot.eval.results.mlflow_children import track_results
    from eyespot.eval.results.result import results_in
    from eyespot.pretrain.redaction import masked
    from eyespot.pretrain.tracking.mlflow_mirror import sync, tracking_uri

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"syncing {run_dir}", total=None)
        num_lines = sync(run_dir, uri, lambda done, total: bar.update(task, completed=done, total=total))
        num_results = track_results(run_dir, results_in(run_dir), uri)
    print(f"{num_lines} lines and {num_results} results sent to {masked(tracking_uri(run_dir, uri) or '')}")
    return ExitCode.DONE


def main(argv: list[str]) -> int:
    """Runs the command."""
    return parse(sync_run, argv, prog="eyespot sync")
