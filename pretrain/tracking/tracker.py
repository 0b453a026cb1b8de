"""What a run tells about itself while it trains: metrics.jsonl at once, MLflow in the background."""

import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.mlflow_mirror import Mirror, MlflowRecord, brief, tracking_uri

_LOG = logging.getLogger("eyespot")
_INTERVAL_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 30.0
_QUIET_SECONDS = 5.0
"""At its end a run says what it waits for, where that takes longer."""
_ROUNDING = 1e-4  # what another number of ranks may change in a loss


class Tracker:
    """metrics.jsonl is the truth; a background thread brings it to MLflow.

    Nothing here waits for MLflow but ``close``, and that not for long; nothing raises because of it. What a dead
    server missed is sent when it answers again, or later by ``eyespot sync RUN``.

    A resumed run executes the steps between its checkpoint and the crash once more. They are not written again but
    compared: the log says that they agree, or warns of the first that does not.

    Args:
        run_dir: the run folder, made where it is missing.
        run_key: names the run for ever; all its resumes are one MLflow run.
        name: what people call it.
        experiment: the MLflow experiment that it belongs to.
        params: nested dicts become dotted names. A parameter that a resume changes keeps its first value in MLflow,
            which knows no other way; the new one becomes the tag ``changed.<name>``.
        tags: git commit, manifest hash and the like; the newest value wins.
        uri: MLflow tracking URI, "none" for no MLflow. None means MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the
            run folder with the pictures in ``mlartifacts``.

    Attributes:
        last_step: the highest step that metrics.jsonl held when it was opened; -1 if none.

    Raises:
        UserError: the folder's mlflow.json is damaged.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        run_key: str,
        name: str,
        experiment: str = "eyespot",
        params: Mapping[str, object],
        tags: Mapping[str, str],
        uri: str | None = None,
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        metrics_file.cut_torn_line(run_dir)
        self._run_dir = run_dir
        self._record = _open_record(
            run_dir, MlflowRecord(run_key=run_key, name=masked(name), experiment=masked(experiment))
        )
        self._record.update(params, tags)
        self._record.write(run_dir)
        self._replay = _Replay({int(line["step"]): line.get("loss") for line in metrics_file.read_metrics(run_dir)})
        self.last_step = self._replay.last_step
        self._file = (run_dir / metrics_file.NAME).open("ab", buffering=0)
        place = tracking_uri(run_dir, uri)
        self._follower = _Follower(run_dir, place) if place else None
        self._closed = False

    def log(self, step: int, values: Mapping[str, metrics_file.Value]) -> None:
        """Appends one line; it is in the file when this returns. Numbers go to MLflow too, text stays in the file.

        Steps up to ``last_step`` are compared with what is recorded instead.

        Args:
            step: of the run, starting at 0.
            values: plain numbers (NaN and the infinities too) and text; the names ``step`` and ``time`` are taken.
        """
        if step <= self.last_step:
            self._replay.compare(step, values.get("loss"))
            return
        self._replay.end()
        metrics_file.append(self._file, metrics_file.encode({"step": step, "time": round(time.time(), 3), **values}))

    @property
    def lost(self) -> Path | None:
        """metrics.jsonl, where the file that is written to does not bear that name any more.

        Raises:
            OSError: the file system does not answer.
        """
        path, own = self._run_dir / metrics_file.NAME, os.fstat(self._file.fileno())
        try:
            return None if os.path.samestat(path.stat(), own) else path
        except (FileNotFoundError, NotADirectoryError):
            return path

    def picture(self, path: Path) -> None:
        """Queues a finished file of the folder ``run_dir/pictures`` as the artifact ``pictures/<name>``."""
        if self._follower:
            self._follower.mirror.add_picture(path.name)

    def event(self, text: str) -> None:
        """Notes what happened to the run, as ``MlflowRecord.add_event``. For any thread.

        Args:
            text: one line; it gets the time.
        """
        self._record.add_event(text)
        self._write_record()

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"], wait_seconds: float | None = None) -> None:
        """Notes how the run ended and gives MLflow a last chance. A second call does nothing.

        Args:
            status: what MLflow shows.
            wait_seconds: how long to wait at most until MLflow has everything. By default 15, and where MLflow is a
                file here, which is slow but never away, as long as something is being sent, up to 120; 3 when the run
                is stopped, for who stopped it (SLURM's ``KillWait``) kills what has not ended soon.
        """
        busy_seconds = 0.0
        if wait_seconds is None:
            wait_seconds, busy_seconds = (3.0, 0.0) if status == "KILLED" else (15.0, 120.0)
        if self._closed:
            return
        self._closed = True
        self._replay.end()
        self._file.close()
        self._record.end(status)
        self._write_record()
        if self._follower and not self._follower.close(wait_seconds, busy_seconds):
            _LOG.warning("MLflow does not have all of this run yet; send the rest with: eyespot sync %s", self._run_dir)

    def _write_record(self) -> None:
        """It says how the run ended, and must not hide why."""
        try:
            self._record.write(self._run_dir)
        except OSError as error:
            _LOG.warning("%s: cannot be written (%s)", MlflowRecord.path(self._run_dir), error.strerror or error)


def _open_record(run_dir: Path, new: MlflowRecord) -> MlflowRecord:
    """The folder's mlflow.json, or ``new`` where there is none or it tells of another run."""
    if not MlflowRecord.path(run_dir).is_file():
        return new
    old = MlflowRecord.read(run_dir)
    return old if old.run_key == new.run_key else new


class _Replay:
    """Compares the steps that a resumed run executes again with their recorded losses."""

    def __init__(self, recorded: dict[int, metrics_file.Value | None]) -> None:
        self.last_step = max(recorded, default=-1)
        self._recorded = recorded
        self._num_compared = 0
        self._largest = 0.0
        self._warned = False

    def compare(self, step: int, loss: metrics_file.Value | None) -> None:
        """Warns at the first step whose loss is further from the recorded one than other ranks explain."""
        if step not in self._recorded:
            return
        recorded = self._recorded[step]
        self._num_compared += 1
        difference = _relative_difference(recorded, loss)
        self._largest = max(self._largest, difference)
        if difference > _ROUNDING and not self._warned:
            self._warned = True
            _LOG.warning("the resumed run differs: at step %d the loss was %r and is now %r", step, recorded, loss)

    def end(self) -> None:
        """Says once how the replay went, and forgets what was recorded."""
        if self._num_compared and not self._warned:
            how = f"to {self._largest:.1g}" if self._largest else "bit for bit"
            _LOG.info("the %d re-run steps agreed with %s %s", self._num_compared, metrics_file.NAME, how)
        self._num_compared = 0
        self._recorded = {}


def _relative_difference(one: metrics_file.Value | None, other: metrics_file.Value | None) -> float:
    """0 for equal values, NaN again included; infinite where they cannot be compared."""
    if one == other or (one != one and other != other):
        return 0.0
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return math.inf
    difference = abs(one - other) / max(abs(one), abs(other))
    return difference if math.isfinite(difference) else math.inf


class _Follower:
    """The thread that pushes a run folder to MLflow, over and over, whatever the server does."""

    def __init__(self, run_dir: Path, uri: str) -> None:
        self.mirror = Mirror(run_dir, uri)
        self._place, self._is_file = masked(uri), uri.startswith("sqlite:")
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._complete = False
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def close(self, wait_seconds: float, busy_seconds: float) -> bool:
        """Waits until all is sent, ``wait_seconds`` at most, or ``busy_seconds`` for a file here; True if it is."""
        self._deadline = time.monotonic() + wait_seconds
        self._closing.set()
        self._thread.join(min(wait_seconds, _QUIET_SECONDS))
        if self._thread.is_alive():
            longest = max(wait_seconds, busy_seconds) if self._is_file else wait_seconds
            _LOG.info("sending the rest to MLflow at %s (%.0f s at most)", self._place, longest)
            self._thread.join(longest - min(wait_seconds, _QUIET_SECONDS))
        return self._complete

    def _follow(self) -> None:
        failures = 0
        while True:
            closing = self._closing.is_set()  # before the push, which then sees all that was logged before closing
            try:
                self.mirror.push()
            except Exception as error:
                if not failures:
                    _LOG.warning(
                        "MLflow at %s: %s; %s keeps it all, trying again", self._place, brief(error), metrics_file.NAME
                    )
                failures += 1
                if closing and time.monotonic() > self._deadline:
                    return
            else:
                if failures:
                    _LOG.info("MLflow at %s: has everything again", self._place)
                failures = 0
                if closing:
                    self._complete = True
                    return
            wait = min(_INTERVAL_SECONDS * 2 ** min(failures, 10), _LONGEST_WAIT_SECONDS)
            if closing:
                time.sleep(1.0)
            else:
                self._closing.wait(wait)
