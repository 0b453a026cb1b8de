"""What a run tells about itself while it trains: metrics.jsonl at once, its mirrors in the background."""

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.follower import Follower
from eyespot.pretrain.tracking.mirrors import writers_of
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord

_LOG = logging.getLogger("eyespot")
_ROUNDING = 1e-4  # what another number of ranks may change in a loss


class Tracker:
    """metrics.jsonl is the truth; a background thread each brings it to MLflow, TensorBoard's event files and W&B.

    Nothing here waits for them but ``close``, and that not for long; nothing raises because of them. What a dead
    server or a full disk missed is sent when it is well again, or later by ``eyespot sync RUN``.

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
        tensorboard: write event files to RUN/tensorboard.
        wandb: bring it to this project of W&B; empty = do not.

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
        tensorboard: bool = False,
        wandb: str = "",
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
        writers = writers_of(run_dir, uri, tensorboard=tensorboard, wandb=wandb)
        self._followers = [Follower(run_dir, writer) for writer in writers]
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
        """Queues a finished file of the folder ``run_dir/pictures`` for all mirrors."""
        for follower in self._followers:
            follower.mirror.add_picture(path.name)

    def event(self, text: str) -> None:
        """Notes what happened to the run, as ``MlflowRecord.add_event``. For any thread.

        Args:
            text: one line; it gets the time.
        """
        self._record.add_event(text)
        self._write_record()

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"], wait_seconds: float | None = None) -> None:
        """Notes how the run ended and gives its mirrors a last chance. A second call does nothing.

        Args:
            status: what MLflow shows.
            wait_seconds: how long to wait at most until they have everything. By default 15, and where it is a file
                here, which is slow but never away, as long as something is being sent, up to 120; 3 when the run
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
        for follower in self._followers:
            follower.begin_close(wait_seconds)
        for follower in self._followers:
            if not follower.close(wait_seconds, busy_seconds):
                writer = follower.mirror.writer
                command = f"eyespot sync {self._run_dir} {writer.flag}".rstrip()
                _LOG.warning("%s does not have all of this run yet; send the rest with: %s", writer.name, command)

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
