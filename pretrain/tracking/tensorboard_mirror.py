"""TensorBoard's event files: RUN/tensorboard, one file, whatever happens to the run.

A line of metrics.jsonl is one record of the file, with a checksum, appended whole or not at all. Beside its numbers it
says, where TensorBoard keeps who wrote it, how many bytes of metrics.jsonl it and those before it bring. So the file
itself says how far it is: what a kill has torn off its end is cut away, and the next line follows.

TensorBoard's numbers have 32 bits: those of metrics.jsonl, rounded.
"""
# pyright: reportAttributeAccessIssue=false
# (protobuf makes its classes when they are imported: no type checker sees them)

import os
import socket
import struct
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.tracking.mirror import Writer, locked, step_of
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FOLDER = "tensorboard"
_BYTES = "eyespot bytes "
_PICTURE = "eyespot picture "
_OURS = ".eyespot"
"""How the names of our files end: nobody else's is cut or deleted."""
_LARGEST = 1 << 30
"""Bytes of a record that is not damaged."""


class TensorboardWriter(Writer):
    """The event file of one run folder.

    Args:
        run_dir: the run folder.
    """

    name = "TensorBoard"
    flag = "--tensorboard"

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir.resolve() / FOLDER
        self.place = str(self._folder)
        self._metrics = run_dir.resolve() / metrics_file.NAME
        self._pictures: set[str] = set()

    def open(self, record: MlflowRecord) -> int:
        """Finds the file, or begins one; cuts what was torn off its end."""
        try:
            self._folder.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"{self._folder}: is no folder; remove or rename it") from error
        with locked(self._metrics):  # the run itself and `eyespot sync` may both be here
            return self._look()

    def write(self, lines: list[bytes], offset: int) -> None:
        """A record each."""
        start = offset - sum(map(len, lines))
        with locked(self._metrics):
            if self._path.stat().st_size != self._end:  # another process has written
                there = self._look()
                lines = lines if there <= start else []
                if there not in (start, offset):
                    raise OSError(f"{self._path} was changed by somebody else")
            for line in lines:
                start += len(line)
                if (event := _event_of(line, start)) is not None:
                    self._append(event)

    def tell(self, record: MlflowRecord) -> None:
        """Nothing: TensorBoard has no place for it."""

    def lacking(self, pictures: list[Path]) -> list[Path]:
        """Those of a step that no record holds."""
        return [path for path in pictures if step_of(path) is not None and path.name not in self._pictures]

    def picture(self, path: Path) -> None:
        """A record, where it is of a step."""
        from PIL import Image
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        step = step_of(path)
        if step is None or path.name in self._pictures:
            return
        with Image.open(path, formats=("PNG",)) as opened:
            width, height = opened.size
        image = Summary.Image(width=width, height=height, encoded_image_string=path.read_bytes())
        summary = Summary(value=[Summary.Value(tag="pictures", image=image)])
        event = Event(wall_time=path.stat().st_mtime, step=step, summary=summary)
        event.source_metadata.writer = f"{_PICTURE}{path.name}"
        with locked(self._metrics):
            if self._path.stat().st_size != self._end:
                self._look()
            if path.name not in self._pictures:
                self._append(event)
                self._pictures.add(path.name)

    def _look(self) -> int:
        """Reads what the file holds; returns how many bytes of metrics.jsonl that is."""
        found = [path for path in sorted(self._folder.glob(f"events.out.tfevents.*{_OURS}")) if not path.is_symlink()]
        self._path = found[0] if found else self._folder / f"events.out.tfevents.{int(time.time())}.{_host()}{_OURS}"
        offset, self._end, self._pictures = 0, 0, set()
        if self._path.is_file():
            for event, end in _events(self._path):
                self._end = end
                said = event.source_metadata.writer
                if said.startswith(_BYTES):
                    offset = int(said.removeprefix(_BYTES))
                elif said.startswith(_PICTURE):
                    self._pictures.add(said.removeprefix(_PICTURE))
            if self._end < self._path.stat().st_size:
                os.truncate(self._path, self._end)
        if offset > self._metrics.stat().st_size:  # of another run, that was here before
            self._path.unlink()
            return self._look()
        if self._end == 0:
            from tensorboard.compat.proto.event_pb2 import Event

            self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        return offset

    def _append(self, event: "Event") -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(record := BytesIO()).write(event.SerializeToString())
        with self._path.open("ab", buffering=0) as file:
            metrics_file.append(file, record.getvalue())
        self._end += len(record.getvalue())


def _event_of(line: bytes, offset: int) -> "Event | None":
    """The record of a line that ends at byte ``offset``; a damaged line has none."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = metrics_file.decode(line)
    if values is None:
        return None
    wall_time, step = float(values.pop("time", 0)), int(values.pop("step"))
    numbers = {grouped(name): value for name, value in values.items() if isinstance(value, int | float)}
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()])
    event = Event(wall_time=wall_time, step=step, summary=summary)
    event.source_metadata.writer = f"{_BYTES}{offset}"
    return event


def _events(path: Path) -> Iterator[tuple[Any, int]]:
    """The whole records of an event file from its beginning, each with the byte that it ends at."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    end = 0
    with path.open("rb") as file:
        while len(header := file.read(12)) == 12:
            length, check = struct.unpack("<QI", header)
            if length > _LARGEST or check != masked_crc32c(header[:8]):
                return
            data, footer = file.read(length), file.read(4)
            if len(data) < length or footer != struct.pack("<I", masked_crc32c(data)):
                return
            try:
                event = Event.FromString(data)
            except DecodeError:
                return
            end += 16 + length
            yield event, end


def _host() -> str:
    """This machine's name, as a part of a file's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname()) or "host"
