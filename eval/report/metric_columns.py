"""MetricColumns: the numbers of a run's metrics.jsonl by name, eight bytes each, so that a million lines fit."""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile, groupby, islice
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int64

from eyespot.pretrain.tracking import metrics_file

_FAST = msgspec.json.Decoder(dict[str, int | float | str])
_LARGEST = 1 << 62
_AT_ONCE = 1 << 8
"""Lines: those of one set of names go into the columns together, which is several times as fast as one by one."""
_ODD = ("NaN", "Infinity", "-Infinity")


class MetricColumns:
    """What a run has logged. Text is left out.

    Args:
        lines: of metrics.jsonl, decoded, oldest first.
    """

    def __init__(self, lines: Iterable[Mapping[str, metrics_file.Value]] = ()) -> None:
        self._steps = array("q")
        self._values: dict[str, array[float]] = {}
        self._rows: dict[str, array[int]] = {}
        """The line of each value, of those names that are not on every line."""
        rest = iter(lines)
        while some := list(islice(rest, _AT_ONCE)):
            for _, alike in groupby(some, key=tuple):
                self._add(list(alike))

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def last_step(self) -> int:
        """Of the newest line; 0 where there is none."""
        return self._steps[-1] if self._steps else 0

    def names(self) -> set[str]:
        """Of all numbers."""
        return {*self._values} - {"step"}

    def points(self, name: str) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Steps and values of a metric, where it was logged; what is not a finite number is nan or infinite."""
        values = np.frombuffer(self._values.get(name, array("d")), np.float64)
        steps = np.frombuffer(self._steps, np.int64)
        return steps[self._rows_of(name)], values

    def on_every_line(self, name: str) -> Float64[np.ndarray, " lines"]:
        """A metric's values; 0 on lines that lack it."""
        found = np.zeros(len(self))
        found[self._rows_of(name)] = np.frombuffer(self._values.get(name, array("d")), np.float64)
        return found

    def has(self, name: str) -> Bool[np.ndarray, " lines"]:
        """Which lines have a metric."""
        found = np.zeros(len(self), bool)
        found[self._rows_of(name)] = True
        return found

    def thinned(self, name: str, count: int) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """At most ``count`` points: means of equal runs of neighbours. Values that are not finite are left out."""
        steps, values = self.points(name)
        finite = np.isfinite(values)
        steps, values = steps[finite], values[finite]
        size = max(1, math.ceil(len(values) / count))
        starts = np.arange(0, len(values), size)
        if size == 1:
            return steps, values
        ends = np.minimum(starts + size, len(values))
        return steps[ends - 1], np.add.reduceat(values, starts) / (ends - starts)

    def _rows_of(self, name: str) -> Int64[np.ndarray, " n"] | slice:
        if name in self._rows:
            return np.frombuffer(self._rows[name], np.int64)
        return slice(0, len(self._values.get(name, ())))

    def _add(self, lines: Sequence[Mapping[str, metrics_file.Value]]) -> None:
        """Lines with the same names."""
        first = len(self._steps)
        self._steps.extend([int(line["step"]) for line in lines])
        for name in lines[0]:
            self._extend(name, first, [line[name] for line in lines])

    def _extend(self, name: str, first: int, found: list[metrics_file.Value]) -> None:
        """``found`` stands on the lines from row ``first`` on."""
        try:
            numbers = array("d", cast(list[float], found))
        except (TypeError, OverflowError):  # text among them: none of ours before the first number, then no number
            kept = dropwhile(_is_text, enumerate(found, first)) if name not in self._values else enumerate(found, first)
            pairs = [(row, _number(value)) for row, value in kept]
            if not pairs:
                return
            rows, numbers = [row for row, _ in pairs], array("d", [number for _, number in pairs])
        else:
            rows = range(first, first + len(found))
        values = self._values.setdefault(name, array("d"))
        if name not in self._rows and rows[0] != len(values):
            self._rows[name] = array("q", range(len(values)))
        if name in self._rows:
            self._rows[name].extend(rows)
        values.extend(numbers)


def _is_text(place: tuple[int, metrics_file.Value]) -> bool:
    return isinstance(place[1], str) and place[1] not in _ODD


def _number(value: metrics_file.Value) -> float:
    try:
        return math.nan if isinstance(value, str) and value not in _ODD else float(value)
    except OverflowError:
        return math.inf


def read_columns(run_dir: Path) -> MetricColumns:
    """What ``metrics_file.read_metrics`` gives, in columns; empty where the file is missing."""
    return MetricColumns(metrics_file.read_metrics(run_dir, decoded))


def decoded(line: bytes) -> dict[str, metrics_file.Value] | None:
    """As ``metrics_file.decode``, which judges what is unusual, several times as fast."""
    try:
        values = _FAST.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return _checked(metrics_file.decode(line))
    step = values.get("step")
    return cast(Any, values) if type(step) is int and 0 <= step < _LARGEST else None


def _checked(values: dict[str, Any] | None) -> dict[str, metrics_file.Value] | None:
    """Without what is neither text nor a number that a float can hold."""
    if values is None or type(values["step"]) is not int or not 0 <= values["step"] < _LARGEST:
        return None
    return {name: value for name, value in values.items() if type(value) in (float, str) or _fits(value)}


def _fits(value: Any) -> bool:
    return type(value) is int and abs(value) < _LARGEST
