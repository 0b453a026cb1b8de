"""Brings a run folder to MLflow. What lies in the folder is the truth; every call here may be repeated.

Three files are read: ``mlflow.json`` (what the run is called, its parameters, tags and status), ``metrics.jsonl`` and
``pictures/``. Why repeating is safe, whenever a process, a request or the server dies:

- The MLflow run is found by the tag ``eyespot.run_key`` and made only where there is none.
- A point's time stamp comes from its line, so a point that is sent twice is the same row twice: MLflow's SQL stores
  have (run, key, step, time stamp, value) as their primary key and skip what they hold.
- The tag ``eyespot.synced_bytes`` says how far metrics.jsonl has been sent. It travels in the request that brings the
  points and the server writes it after them: it may lag behind, it is never ahead.
- The file is flushed to disk before it is sent, so a power cut cannot leave the server with more than the folder has.
"""

import contextlib
import fcntl
import json
import os
import posixpath
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import sync as sync_file
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.mlflow_pages import mark_as_training

if TYPE_CHECKING:
    from mlflow import MlflowClient

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

RUN_KEY_TAG = "eyespot.run_key"
SYNCED_TAG = "eyespot.synced_bytes"

# MLflow's own limits. A request holds 1,000 things at most; one of them is the tag.
_POINTS_PER_REQUEST = 999
_PAIRS_PER_REQUEST = 100
_KEY_LENGTH = 250
_PARAM_LENGTH = 6000
TAG_LENGTH = 8000
NUM_EVENTS = 20
LARGEST = 16 * 2**20
"""Bytes that mlflow.json may have; ours have some thousand."""

# Left alone, one request to a dead server takes minutes; the caller retries by itself, so a request may fail early.
# And MLflow would print addresses into the progress display and report its use to its makers.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def tracking_uri(run_dir: Path, uri: str | None = None) -> str | None:
    """Where a run is tracked: ``uri``, else MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the run folder.

    Returns:
        An MLflow tracking URI; None where the chosen value is "none": then nothing is sent anywhere.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"
    return None if chosen.lower() == "none" else chosen


@dataclass(kw_only=True, slots=True)
class MlflowRecord:
    """mlflow.json: what MLflow is told about a run besides its metrics. It survives resumes and waits for a network."""

    run_key: str
    name: str
    experiment: str
    params: dict[str, str] = field(default_factory=dict)
    """Parameters, flat; MLflow never lets one change, so each keeps the value that it had first."""
    tags: dict[str, str] = field(default_factory=dict)
    status: Status = "RUNNING"
    start_ms: int = field(default_factory=lambda: _now_ms())
    """Wall clock of the first start, milliseconds."""
    end_ms: int | None = None
    """Wall clock of the last end, milliseconds; None while the run goes on."""

    @staticmethod
    def path(run_dir: Path) -> Path:
        """Where it stands."""
        return run_dir / "mlflow.json"

    @classmethod
    def read(cls, run_dir: Path) -> "MlflowRecord":
        """Reads mlflow.json.

        Raises:
            UserError: it is missing or damaged.
        """
        path = cls.path(run_dir)
        try:
            return foreign_json.read(path, cls, LARGEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"run folder {run_dir}: no mlflow.json inside; name a folder that a run has written"
            ) from error
        except foreign_json.ForeignJsonError as error:
            raise UserError(
                f"{path}: damaged ({error.why}); delete it and resume the run, which writes it anew"
            ) from error

    def write(self, run_dir: Path) -> None:
        """Writes mlflow.json; a kill leaves the old one or the new one."""
        write_bytes(self.path(run_dir), (json.dumps(asdict(self), indent=1) + "\n").encode())

    def update(self, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Takes in what a (re)started run says: a new tag wins, a changed parameter becomes ``changed.<name>``."""
        self.tags.update({legal_name(name): masked(value)[:TAG_LENGTH] for name, value in tags.items()})
        for name, value in flatten(params).items():
            changed = legal_name(f"changed.{name}")
            if self.params.setdefault(name, value) != value or changed in self.tags:
                self.tags[changed] = value
        self.status, self.end_ms = "RUNNING", None

    def add_event(self, text: str) -> None:
        """Notes what happened to the run, with the time, as a tag ``event.<number>``; the newest 20 are kept."""
        number = 1 + max((int(name[6:]) for name in self.tags if name.startswith("event.")), default=0)
        self.tags.pop(f"event.{number - NUM_EVENTS:04d}", None)
        self.tags[f"event.{number:04d}"] = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {masked(text)}"[:TAG_LENGTH]

    def end(self, status: Status) -> None:
        """Notes how and when the run ended."""
        self.status, self.end_ms = status, _now_ms()


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested dicts as one dict with dotted names, values as masked text, both cut to what MLflow accepts."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[legal_name(f"{prefix}{name}")] = masked(str(value))[:_PARAM_LENGTH]
    return flat


class Mirror:
    """The MLflow run that mirrors one run folder.

    Args:
        run_dir: the run folder; mlflow.json must stand in it before the first ``push``.
        uri: an MLflow tracking URI. MLflow is imported by the first ``push``, not here: that takes seconds.
    """

    def __init__(self, run_dir: Path, uri: str) -> None:
        self._run_dir = run_dir.resolve()
        self._uri = uri
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._offset = 0
        self._status = ""
        self._tags: dict[str, str] = {}
        self._pictures: deque[str] = deque()  # names; one that fails is found again when connecting

    def add_picture(self, name: str) -> None:
        """Queues ``pictures/<name>``. What lies there when the mirror connects goes by itself."""
        self._pictures.append(name)

    def push(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Sends what MLflow does not have yet: new lines, the status, new pictures.

        Args:
            progress: is told (bytes of metrics.jsonl done, bytes in all) after each request.

        Returns:
            How many lines were sent.

        Raises:
            Exception: whatever MLflow or the network raised. The next push looks at the server afresh and goes on.
        """
        try:
            record = MlflowRecord.read(self._run_dir)
            client = self._client or self._connect(record)
            if record.tags != self._tags:
                self._send_record(client, record, record.params, self._tags)
            num_lines = self._send_lines(client, progress)
            if record.status != self._status:
                self._send_status(client, record)
            self._send_pictures(client)  # last: a server that takes no files still gets everything else
            return num_lines
        except BaseException:
            self._client = None  # the server may have come back without this run
            raise

    def _connect(self, record: MlflowRecord) -> "MlflowClient":
        client = open_store(self._uri)
        with locked(self._run_dir / metrics_file.NAME):  # the run itself and `eyespot sync` may both be here
            run = self._find_run(client, record)
        self._run_id, self._status = run.info.run_id, run.info.status
        mark_as_training(client, run)
        self._send_record(client, record, run.data.params, run.data.tags)
        size = (self._run_dir / metrics_file.NAME).stat().st_size
        self._offset = min(int(run.data.tags.get(SYNCED_TAG, 0)), size)
        there = {artifact.path: artifact.file_size for artifact in client.list_artifacts(self._run_id, "pictures")}
        for path in sorted(self._run_dir.glob("pictures/[!.]*")):
            if path.is_file() and there.get(f"pictures/{path.name}") != path.stat().st_size:
                self.add_picture(path.name)
        self._client = client
        return client

    def _find_run(self, client: "MlflowClient", record: MlflowRecord) -> Any:
        experiment_id = _experiment_id(client, record.experiment, self._uri)
        return oldest_run(client, experiment_id, {RUN_KEY_TAG: record.run_key}) or client.create_run(
            experiment_id, start_time=record.start_ms, run_name=record.name, tags={RUN_KEY_TAG: record.run_key}
        )

    def _send_record(
        self, client: "MlflowClient", record: MlflowRecord, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Param, RunTag

        new_params = [Param(name, value) for name, value in record.params.items() if name not in params]
        new_tags = [RunTag(name, value) for name, value in record.tags.items() if tags.get(name) != value]
        for start in range(0, len(new_params), _PAIRS_PER_REQUEST):
            client.log_batch(self._run_id, params=new_params[start : start + _PAIRS_PER_REQUEST])
        for start in range(0, len(new_tags), _PAIRS_PER_REQUEST):
            client.log_batch(self._run_id, tags=new_tags[start : start + _PAIRS_PER_REQUEST])
        self._tags = record.tags

    def _send_lines(self, client: "MlflowClient", progress: Callable[[int, int], None]) -> int:
        from mlflow.entities import Metric, RunTag

        num_lines = 0
        with (self._run_dir / metrics_file.NAME).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size > self._offset:
                sync_file(file.fileno())
            file.seek(self._offset)
            while lines := _read_lines(file, size):
                points = [Metric(*point) for line in lines for point in _points(line)]
                offset = self._offset + sum(map(len, lines))
                for start in range(0, max(1, len(points)), _POINTS_PER_REQUEST):
                    last = start + _POINTS_PER_REQUEST >= len(points)
                    tags = [RunTag(SYNCED_TAG, str(offset))] if last else []
                    client.log_batch(self._run_id, metrics=points[start : start + _POINTS_PER_REQUEST], tags=tags)
                self._offset = offset
                num_lines += len(lines)
                progress(offset, size)
        return num_lines

    def _send_pictures(self, client: "MlflowClient") -> None:
        while self._pictures:
            path = self._run_dir / "pictures" / self._pictures.popleft()
            if path.is_file():
                client.log_artifact(self._run_id, str(path), "pictures")

    def _send_status(self, client: "MlflowClient", record: MlflowRecord) -> None:
        if record.status == "RUNNING":
            client.update_run(self._run_id, status="RUNNING")
        else:
            client.set_terminated(self._run_id, record.status, record.end_ms)
        self._status = record.status


def sync(run_dir: Path, uri: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Brings to MLflow what a run could not send itself: it ran offline, or the server was away.

    Args:
        run_dir: the run folder.
        uri: tracking URI; None means MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the run folder.
        progress: is told (bytes of metrics.jsonl done, bytes in all) after each request.

    Returns:
        How many lines of metrics.jsonl were sent; 0 where MLflow had them all.

    Raises:
        UserError: no such run folder, no place to send to, or MLflow does not answer.
    """
    if not (run_dir / metrics_file.NAME).is_file():
        raise UserError(f"run folder {run_dir}: no {metrics_file.NAME} inside; name a folder that a run has written")
    if (place := tracking_uri(run_dir, uri)) is None:
        raise UserError("tracking uri none: nowhere to send to; name one with --uri or MLFLOW_TRACKING_URI")
    _be_patient()
    try:
        return Mirror(run_dir, place).push(progress)
    except UserError:
        raise
    except Exception as error:  # MLflow raises its own, requests' and the database's errors alike
        raise UserError(
            f"tracking uri {masked(place)}: {brief(error)}; run the command again when the server answers"
        ) from error


def _be_patient() -> None:
    """A server that is busy is asked again when it wants to be (Retry-After); one that is dead at once, and no more."""
    for name, value in (("MAX_RETRIES", "3"), ("BACKOFF_FACTOR", "0"), ("BACKOFF_JITTER", "0")):
        if os.environ.get(key := f"MLFLOW_HTTP_REQUEST_{name}") in (None, _CLIENT_DEFAULTS.get(key)):
            os.environ[key] = value


def brief(error: BaseException) -> str:
    """What lies at the bottom of an error, on one short line without secrets: fit for a log."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return masked(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


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
        return experiment.experiment_id
    try:
        place = (_sqlite_path(uri).parent / "mlartifacts").as_uri() if uri.startswith("sqlite:///") else None
        return client.create_experiment(name, artifact_location=place)
    except MlflowException:
        if experiment := client.get_experiment_by_name(name):  # another run was faster
            return experiment.experiment_id
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` between processes; a process that dies lets go of it."""
    with path.open("ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks: one writer at a time is the common case
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_lines(file: BinaryIO, end: int) -> list[bytes]:
    """The next complete lines before byte ``end``, about as many as fill one request."""
    lines: list[bytes] = []
    num_points = 0
    while num_points < _POINTS_PER_REQUEST:
        line = file.readline()
        if not line.endswith(b"\n") or file.tell() > end:
            break
        num_points += line.count(b":")
        lines.append(line)
    return lines


def _points(line: bytes) -> Iterator[tuple[str, float, int, int]]:
    """(key, value, time stamp in ms, step) of every number on a line; a damaged line has none."""
    values = metrics_file.decode(line) or {}
    stamp, step = round(float(values.pop("time", 0)) * 1000), int(values.pop("step", 0))
    for name, value in values.items():
        if isinstance(value, int | float):
            yield legal_name(name), float(value), stamp, step


def legal_name(name: str) -> str:
    """``name`` in the letters that MLflow allows, shaped like a path without detours."""
    legal = re.sub(r"[^\w\-. :/]", "_", name)
    return posixpath.normpath(f"/{legal}").strip("/")[:_KEY_LENGTH] or "_"


def _now_ms() -> int:
    return round(time.time() * 1000)
