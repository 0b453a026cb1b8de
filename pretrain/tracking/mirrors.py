"""Where a run is brought: MLflow, TensorBoard's event files, W&B, each if it is wanted."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from eyespot.data_pipeline.errors import Outage, UserError, is_network_outage
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.mirror import Mirror, Writer, brief
from eyespot.pretrain.tracking.mlflow_mirror import MlflowWriter, be_patient, tracking_uri
from eyespot.pretrain.tracking.tensorboard_mirror import TensorboardWriter
from eyespot.pretrain.tracking.wandb_mirror import WandbWriter

Progress = Callable[[int, int], None]


def check_mirrors(*, tensorboard: bool, wandb: str) -> None:
    """Whether the packages are there that the wanted mirrors need.

    Raises:
        UserError: one is not.
    """
    for name, wanted in (("tensorboard", tensorboard), ("wandb", bool(wandb))):
        spec = importlib.util.find_spec(name) if wanted else None
        if wanted and (spec is None or spec.origin is None):  # W&B leaves a folder of its name, which is no package
            raise UserError(f"{name}: the package is not installed; pip install 'eyespot[{name}]', or leave it out")


def writers_of(run_dir: Path, uri: str | None, *, tensorboard: bool, wandb: str) -> list[Writer]:
    """The writers of a run.

    Args:
        run_dir: the run folder.
        uri: MLflow tracking URI, "none" for no MLflow; None as ``tracking_uri`` has it.
        tensorboard: write RUN/tensorboard.
        wandb: W&B's project; empty = no W&B.
    """
    place = tracking_uri(run_dir, uri)
    writers: list[Writer] = [MlflowWriter(run_dir, place)] if place else []
    writers += [TensorboardWriter(run_dir)] if tensorboard else []
    return writers + ([WandbWriter(run_dir, wandb)] if wandb else [])


def sync(
    run_dir: Path,
    uri: str | None = None,
    progress: Progress = lambda done, total: None,
    *,
    tensorboard: bool = False,
    wandb: str = "",
) -> int:
    """Brings what a run could not bring itself: it ran offline, a server was away, a disk full; its report, too.

    Args:
        run_dir: the run folder.
        uri: MLflow tracking URI; None means MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the run folder.
        progress: is told (bytes of metrics.jsonl done, bytes in all) after each request.
        tensorboard: write RUN/tensorboard, too.
        wandb: bring it to this project of W&B, too.

    Returns:
        How many lines of metrics.jsonl were brought, to the place that lacked most; 0 where all had them.

    Raises:
        UserError: no such run folder, no place to send to, or one of them refuses.
        Outage: one of them does not answer.
    """
    num_lines, failures = sync_each(run_dir, uri, progress, tensorboard=tensorboard, wandb=wandb)
    for failure in failures.values():
        raise failure
    return num_lines


def sync_each(
    run_dir: Path,
    uri: str | None = None,
    progress: Progress = lambda done, total: None,
    *,
    tensorboard: bool = False,
    wandb: str = "",
) -> tuple[int, dict[str, UserError | Outage]]:
    """As ``sync``, but a place that fails keeps nothing from the others: what went wrong comes back, by its name.

    Raises:
        UserError: no such run folder, or no place to send to.
    """
    if not (run_dir / metrics_file.NAME).is_file():
        raise UserError(f"run folder {run_dir}: no {metrics_file.NAME} inside; name a folder that a run has written")
    check_mirrors(tensorboard=tensorboard, wandb=wandb)
    writers = writers_of(run_dir, uri, tensorboard=tensorboard, wandb=wandb)
    if not writers:
        raise UserError("tracking uri none: nowhere to send to; name one with --uri or MLFLOW_TRACKING_URI")
    be_patient()
    num_lines, failures = 0, dict[str, UserError | Outage]()
    for writer in writers:
        try:
            num_lines = max(num_lines, _sync(run_dir, writer, progress))
        except (UserError, Outage) as error:
            failures[writer.name] = error
            writer.drop()
    return num_lines, failures


def _sync(run_dir: Path, writer: Writer, progress: Progress) -> int:
    try:
        num_lines = Mirror(run_dir, writer).push(progress)
        if (report := run_dir / "report.html").is_file():
            writer.report(report)
        writer.close()
        return num_lines
    except (UserError, Outage):
        raise
    except Exception as error:  # MLflow raises its own, requests' and the database's errors alike
        kind = Outage if is_network_outage(error) else UserError
        what = f"tracking uri {writer.place}" if isinstance(writer, MlflowWriter) else f"{writer.name} {writer.place}"
        raise kind(f"{masked(what)}: {brief(error)}; run the command again when the server answers") from error
