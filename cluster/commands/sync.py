"""``eyespot sync RUN``: bring the metrics of an offline run to MLflow and its other mirrors."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.terminal import plural


def sync_run(
    run_dir: Annotated[Path, tyro.conf.Positional],
    uri: str | None = None,
    tensorboard: bool = False,
    wandb: str = "",
) -> int:
    """Sends what MLflow lacks of a run: metrics, pictures, status, report, results of evaluations. Repeating it does no
    harm. TensorBoard's event files and W&B get theirs, too, where they are asked for, whatever the run had.

    For example: eyespot sync runs/first --uri http://mlflow.example.org:5000

    Args:
        run_dir: the run folder.
        uri: tracking URI; without it MLFLOW_TRACKING_URI, else mlflow.db beside the run folder; none = no MLflow.
        tensorboard: write RUN/tensorboard.
        wandb: project of W&B.
    """
    from eyespot.data_pipeline.progress_bar import ProgressBar
    from eyespot.eval.results.mlflow_children import track_results
    from eyespot.eval.results.result import results_in
    from eyespot.pretrain.redaction import masked
    from eyespot.pretrain.tracking.mirrors import sync_each
    from eyespot.pretrain.tracking.mlflow_mirror import tracking_uri

    with ProgressBar(f"syncing {run_dir}", None, unit="bytes", transient=True) as bar:
        num_lines, failures = sync_each(run_dir, uri, bar.reach, tensorboard=tensorboard, wandb=wandb)
        num_results = 0 if "MLflow" in failures else track_results(run_dir, results_in(run_dir), uri)
    place = masked(tracking_uri(run_dir, uri) or "")
    places = {"MLflow": place, "TensorBoard": f"{run_dir}/tensorboard" if tensorboard else ""}
    places["W&B"] = f"W&B's project {wandb}" if wandb else ""
    if where := ", ".join(there for name, there in places.items() if there and name not in failures):
        print(f"{plural(num_lines, 'line')} of metrics and {plural(num_results, 'result')} sent to {where}")
    for failure in failures.values():
        raise failure
    if place.startswith("sqlite:"):
        print(f"next: mlflow ui --backend-store-uri {place}   # shows them in a browser", file=sys.stderr)
    return ExitCode.DONE


def main(argv: list[str]) -> int:
    """Runs the command."""
    return parse(sync_run, argv, prog="eyespot sync")
