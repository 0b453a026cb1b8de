"""metrics.jsonl: one JSON object per logged step, appended and never rewritten. The truth about a run's numbers.

    {"step": 12, "time": 1764000000.123, "loss": 0.4531, "sample_digest": "0f3a...", ...}

``time`` is the wall clock in seconds, to the millisecond. JSON has no word for NaN and the infinities, and a parser
that is strict refuses the whole line: they are written as the strings "NaN", "Infinity" and "-Infinity".
"""

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from eyespot.data_pipeline.ranges import LARGEST_NUMBER

NAME = "metrics.jsonl"
Value = float | int | str

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_TAIL_BYTES = 1 << 16


def encode(values: Mapping[str, Value]) -> bytes:
    """One line of metrics.jsonl, newline included. Floats keep every bit."""
    return json.dumps({key: _to_json(value) for key, value in values.items()}, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Value] | None:
    """The object on one line, NaN and the infinities as floats again; None where the line is not such an object."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or any(type(value) not in (float, int, str) for value in values.values()):
        return None
    step = values.get("step")
    if not isinstance(step, int) or not 0 <= step < LARGEST_NUMBER:
        return None
    return {key: float(value) if value in _NOT_FINITE else value for key, value in values.items()}


def append(file: BinaryIO | FileIO, line: bytes) -> None:
    """Appends a whole line, or nothing of it.

    Args:
        file: unbuffered, opened for appending; nobody else writes to it.
        line: with its newline.

    Raises:
        OSError: it cannot be written (a full disk); the file is as it was.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        written = file.write(line)
        while written < len(line):  # a disk that becomes full takes the first part without a word
            written += file.write(line[written:])
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), size)
        raise OSError(error.errno, error.strerror, file.name) from error


def read_metrics(
    run_dir: Path, decode: Callable[[bytes], dict[str, Value] | None] = decode
) -> Iterator[dict[str, Value]]:
    """Walks the lines of a run's metrics.jsonl in order, through ``decode``; none where the file is missing.

    A last line without its newline is still being written, or was torn by a kill: it is left out. Any other line that
    does not parse (a damaged file) is left out with a warning.
    """
    path = run_dir / NAME
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            if (values := decode(line)) is None:
                logging.getLogger("eyespot").warning("%s: line %d is damaged and left out", path, number)
            else:
                yield values


def end_of_step(run_dir: Path, step: int) -> int:
    """How many bytes of a run's metrics.jsonl tell of steps up to this one."""
    end = place = 0
    with (run_dir / NAME).open("rb") as file:
        for line in file:
            place += len(line)
            values = decode(line) if line.endswith(b"\n") else None
            if values is not None and int(values["step"]) > step:
                return end
            end = place if values is not None else end
    return end


def cut_torn_line(run_dir: Path) -> None:
    """Removes what a kill left behind the last newline, so that the next line starts on its own."""
    path = run_dir / NAME
    if not path.is_file():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if end < size:
            file.truncate(end)


def _to_json(value: Value) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
