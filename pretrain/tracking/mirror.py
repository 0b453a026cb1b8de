"""How a run folder is brought to others who show it. What lies in the folder is the truth; every step may be repeated.

Three files are read: ``mlflow.json`` (what the run is called, its parameters, tags and status), ``metrics.jsonl`` and
``pictures/``. There is one mechanism, the ``Mirror``, and a ``Writer`` for each place: MLflow, TensorBoard's event
files, W&B. A writer knows by itself how far metrics.jsonl has come to its place, and what it brings says so in the same
breath: the mark may lag behind what is there, it is never ahead. The file is flushed to disk before it is brought, so a
power cut cannot leave a place with more than the folder has.
"""

import contextlib
import fcntl
import os
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from eyespot.data_pipeline.atomic_files import sync as sync_file
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord

POINTS = 999
"""Numbers that a writer is handed at once, about. A request to MLflow holds 1,000 things; one of them is the mark."""


class Writer(ABC):
    """One place that shows a run.

    Attributes:
        name: what people call it.
        place: where it is, without secrets.
        is_file: it is a file here: slow at worst, never away.
        flag: of ``eyespot sync``, without which it does not go there.
    """

    name: str
    place: str
    is_file: bool = True
    flag: str = ""

    @abstractmethod
    def open(self, record: MlflowRecord) -> int:
        """Connects, afresh where it was connected; returns how many bytes of metrics.jsonl are there."""

    @abstractmethod
    def write(self, lines: list[bytes], offset: int) -> None:
        """Brings the next lines; ``offset`` is where they end."""

    @abstractmethod
    def tell(self, record: MlflowRecord) -> None:
        """Brings tags and status, where they have changed. Comes after the lines."""

    @abstractmethod
    def lacking(self, pictures: list[Path]) -> list[Path]:
        """Those of these pictures that are not there; asked once after ``open``."""

    @abstractmethod
    def picture(self, path: Path) -> None:
        """Brings a picture."""

    def pictures(self, paths: list[Path]) -> None:
        """Brings pictures, in their order."""
        for path in paths:
            self.picture(path)

    def report(self, path: Path) -> None:
        """Brings the page that ``eyespot report`` has written, where the place shows files. Comes after ``open``."""
        del path

    def close(self) -> None:
        """Lets go of the place."""
        return

    def drop(self) -> None:
        """Nobody waits for it any more: others may write there. For any thread."""
        return


class Mirror:
    """Brings one run folder to one place, over and over.

    Args:
        run_dir: the run folder; mlflow.json must stand in it before the first ``push``.
        writer: of the place. It imports what it needs when it is opened: MLflow takes seconds.
    """

    def __init__(self, run_dir: Path, writer: Writer) -> None:
        self._run_dir = run_dir.resolve()
        self.writer = writer
        self._open = False
        self._offset = 0
        self._pictures: deque[str] = deque()  # names; one that fails is found again when connecting

    def add_picture(self, name: str) -> None:
        """Queues ``pictures/<name>``. What lies there when the mirror connects goes by itself."""
        self._pictures.append(name)

    def push(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Brings what is not there yet: new lines, tags and the status, new pictures.

        Args:
            progress: is told (bytes of metrics.jsonl done, bytes in all) after each part.

        Returns:
            How many lines were brought.

        Raises:
            Exception: whatever the place or the network raised. The next push looks at the place afresh and goes on.
        """
        try:
            record = MlflowRecord.read(self._run_dir)
            if not self._open:
                self._connect(record)
            num_lines = self._bring_lines(progress)
            self.writer.tell(record)
            pictures = list[Path]()
            while self._pictures:  # last: a place that takes no files still gets everything else
                pictures.append(self._run_dir / "pictures" / self._pictures.popleft())
            self.writer.pictures([path for path in pictures if path.is_file()])
            return num_lines
        except BaseException:
            self._open = False  # the server may have come back without this run
            raise

    def _connect(self, record: MlflowRecord) -> None:
        there = self.writer.open(record)
        self._offset = min(there, (self._run_dir / metrics_file.NAME).stat().st_size)
        found = [path for path in sorted(self._run_dir.glob("pictures/[!.]*")) if path.is_file()]
        self._pictures.extend(path.name for path in self.writer.lacking(found) if path.name not in self._pictures)
        self._open = True

    def _bring_lines(self, progress: Callable[[int, int], None]) -> int:
        num_lines = 0
        with (self._run_dir / metrics_file.NAME).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size > self._offset:
                sync_file(file.fileno())
            file.seek(self._offset)
            while lines := _read_lines(file, size):
                offset = self._offset + sum(map(len, lines))
                self.writer.write(lines, offset)
                self._offset = offset
                num_lines += len(lines)
                progress(offset, size)
        return num_lines


def _read_lines(file: BinaryIO, end: int) -> list[bytes]:
    """The next complete lines before byte ``end``, about as many as have POINTS numbers."""
    lines: list[bytes] = []
    num_points = 0
    while num_points < POINTS:
        line = file.readline()
        if not line.endswith(b"\n") or file.tell() > end:
            break
        num_points += line.count(b":")
        lines.append(line)
    return lines


def step_of(picture: Path) -> int | None:
    """The step that a picture is of, by its name (``step-00000012.png``); None where it is of none."""
    matched = re.fullmatch(r"step-(\d{1,15})\.png", picture.name)
    return int(matched[1]) if matched else None


def brief(error: BaseException) -> str:
    """What lies at the bottom of an error, on one short line without secrets: fit for a log."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return masked(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` between processes; a process that dies lets go of it."""
    with path.open("ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks: one writer at a time is the common case
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
