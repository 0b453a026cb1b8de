"""A run in MLflow. Why bringing the same twice is safe, whenever a process, a request or the server dies:

- The MLflow run is found by the tag ``eyespot.run_key`` and made only where there is none.
- A point's time stamp comes from its line, so a point that is sent twice is the same row twice: MLflow's SQL stores
  have (run, key, step, time stamp, value) as their primary key and skip what they hold.
- The tag ``eyespot.synced_bytes`` says how far metrics.jsonl has been sent. It travels in the request that brings the
  points and the server writes it after them.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file, mlflow_pages
from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.tracking.mirror import POINTS, Writer, locked
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord, legal_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY_TAG = "eyespot.run_key"
SYNCED_TAG = "eyespot.synced_bytes"
NAMES_TAG = "eyespot.metric_names"
"""Of a run whose metrics have sections (``train/loss``). One that was begun without it goes on without."""

_PAIRS_PER_REQUEST = 100

# Left alone, one request to a dead server takes minutes; the caller retries by itself, so a request may fail early.
# And MLflow would print addresses into the progress display and report its use to its makers.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # it would copy files of the folder that we are in beside a model
}


def tracking_uri(run_dir: Path, uri: str | None = None) -> str | None:
    """Where a run is tracked: ``uri``, else MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the run folder.

    Returns:
        An MLflow tracking URI; None where the chosen value is "none": then nothing is sent anywhere.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"
    return None if chosen.lower() == "none" else chosen


class MlflowWriter(Writer):
    """The MLflow run of one run folder.

    Args:
        run_dir: the run folder.
        uri: an MLflow tracking URI. MLflow is imported by ``open``, not here: that takes seconds.
    """

    name = "MLflow"

    def __init__(self, run_dir: Path, uri: str) -> None:
        self._run_dir = run_dir.resolve()
        self._uri = uri
        self.place, self.is_file = masked(uri), uri.startswith("sqlite:")
        self._run_id = ""
        self._status = ""
        self._name_of: Callable[[str], str] = grouped
        self.tags: dict[str, str] = {}

    def open(self, record: MlflowRecord) -> int:
        """Finds or makes the run; tells it what it is."""
        self._client = open_store(self._uri)
        with locked(self._run_dir / metrics_file.NAME):  # the run itself and `eyespot sync` may both be here
            run = self._find_run(record)
        self._run_id, self._status = run.info.run_id, run.info.status
        self._name_of = grouped if NAMES_TAG in run.data.tags else str
        mlflow_pages.mark_as_training(self._client, run)
        mlflow_pages.name_data(self._client, run, record)
        self._send_record(record, run.data.params, run.data.tags)
        self.tags = record.tags
        return int(run.data.tags.get(SYNCED_TAG, 0))

    def write(self, lines: list[bytes], offset: int) -> None:
        """In requests as large as MLflow takes; the last of them brings the mark."""
        from mlflow.entities import Metric, RunTag

        points = [Metric(*point) for line in lines for point in _points(line, self._name_of)]
        for start in range(0, max(1, len(points)), POINTS):
            last = start + POINTS >= len(points)
            tags = [RunTag(SYNCED_TAG, str(offset))] if last else []
            self._client.log_batch(self._run_id, metrics=points[start : start + POINTS], tags=tags)

    def tell(self, record: MlflowRecord) -> None:
        """Tags that are new, and the status."""
        if record.tags != self.tags:
            self._send_record(record, record.params, self.tags)
            self.tags = record.tags
        if record.status == self._status:
            return
        if record.status == "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._client.set_terminated(self._run_id, record.status, record.end_ms)
        self._status = record.status

    def lacking(self, pictures: list[Path]) -> list[Path]:
        """As the lists of artifacts say."""
        return mlflow_pages.lacking(self._client, self._run_id, pictures)

    def picture(self, path: Path) -> None:
        """As an artifact, in the grid of images where it is of a step."""
        mlflow_pages.picture(self._client, self._run_id, path)

    def report(self, path: Path) -> None:
        """As an artifact, which MLflow shows in its page; always, for only its bytes say whether it is another."""
        self._client.log_artifact(self._run_id, str(path))

    def _find_run(self, record: MlflowRecord) -> Any:
        experiment_id = _experiment_id(self._client, record.experiment, self._uri)
        known = oldest_run(self._client, experiment_id, {RUN_KEY_TAG: record.run_key})
        return known or self._client.create_run(
            experiment_id,
            start_time=record.start_ms,
            run_name=record.name,
            tags={RUN_KEY_TAG: record.run_key, NAMES_TAG: "grouped", **mlflow_pages.who_runs()},
        )

    def _send_record(self, record: MlflowRecord, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        new_params = [Param(name, value) for name, value in sorted(record.params.items()) if name not in params]
        new_tags = [
            RunTag(name, value)
            for name, value in record.tags.items()
            if tags.get(name) != value and not (name == mlflow_pages.NOTE_TAG and name in tags)  # somebody may edit it
        ]
        for start in range(0, len(new_params), _PAIRS_PER_REQUEST):
            self._client.log_batch(self._run_id, params=new_params[start : start + _PAIRS_PER_REQUEST])
        for start in range(0, len(new_tags), _PAIRS_PER_REQUEST):
            self._client.log_batch(self._run_id, tags=new_tags[start : start + _PAIRS_PER_REQUEST])


def be_patient() -> None:
    """A busy server is asked again when it wants to be (Retry-After); one that is dead at once, and no more."""
    for name, value in (("MAX_RETRIES", "3"), ("BACKOFF_FACTOR", "0"), ("BACKOFF_JITTER", "0")):
        if os.environ.get(key := f"MLFLOW_HTTP_REQUEST_{name}") in (None, _CLIENT_DEFAULTS.get(key)):
            os.environ[key] = value


def oldest_run(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> Any:
    """The MLflow run that has these tags, None where there is none.

    Should a request that timed out have made a second one after all, all agree that the oldest counts.
    """
    wanted = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=1)
    return found[0] if found else None


def open_store(uri: str) -> "MlflowClient":
    """A client of the store. A fresh SQLite file gets its tables first, made by one process, whole or not at all.

    Eight processes that meet on a fresh file otherwise run its migrations at the same time and ruin it for good.
    """
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        path = _sqlite_path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock")):
            if not path.is_file() or path.stat().st_size == 0:
                for left_behind in path.parent.glob(f"{path.name}.*.tmp"):
                    left_behind.unlink()
                draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
                MlflowClient(f"sqlite:///{draft}").search_experiments(max_results=1)
                draft.replace(path)
    return MlflowClient(uri)


def _sqlite_path(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()


def _experiment_id(client: "MlflowClient", name: str, uri: str) -> str:
    """The experiment of that name, made where there is none; its pictures go beside an SQLite file."""
    from mlflow.exceptions import MlflowException

    if experiment := client.get_experiment_by_name(name):
        mlflow_pages.open_as_training(client, experiment)
        return experiment.experiment_id
    try:
        place = (_sqlite_path(uri).parent / "mlartifacts").as_uri() if uri.startswith("sqlite:///") else None
        return client.create_experiment(name, artifact_location=place, tags=mlflow_pages.TRAINING)
    except MlflowException:
        if experiment := client.get_experiment_by_name(name):  # another run was faster
            return experiment.experiment_id
        raise


def _points(line: bytes, name_of: Callable[[str], str]) -> Iterator[tuple[str, float, int, int]]:
    """(key, value, time stamp in ms, step) of every number on a line; a damaged line has none."""
    values = metrics_file.decode(line) or {}
    stamp, step = round(float(values.pop("time", 0)) * 1000), int(values.pop("step", 0))
    for name, value in values.items():
        if isinstance(value, int | float):
            yield legal_name(name_of(name)), float(value), stamp, step
