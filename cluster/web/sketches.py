"""Sketch: the course of a run's loss from a few places of its metrics.jsonl, so that a hundred long runs list fast."""

import os
from io import BufferedReader
from pathlib import Path

from eyespot.data_pipeline.plain_files import open_inside
from eyespot.eval.report.charts import LARGEST
from eyespot.eval.report.metric_columns import decoded
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.metrics_file import Value

NUM_POINTS = 48
NEAR_BYTES, FAR_BYTES = 1 << 12, 1 << 16
"""Read at each place: enough for a line of ours, then for a long one."""
_GROWN = 1 + 1 / NUM_POINTS
"""A file that has grown by this factor is looked at anew; before, only its end."""


class Sketch:
    """What the list shows of a run's numbers.

    Args:
        run_dir: the run folder.

    Attributes:
        points: (step, loss), steps rising.
        newest: the newest value of each number on the last lines.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.points: list[tuple[int, float]] = []
        self.newest: dict[str, float] = {}
        self._size = self._drawn = 0
        self._modified = 0

    def look(self) -> None:
        """Looks at the file again, if it has changed. A file that cannot be read leaves what was seen before."""
        try:
            with open_inside(self.run_dir, metrics_file.NAME) as file:
                found = os.fstat(file.fileno())
                if (found.st_size, found.st_mtime_ns) == (self._size, self._modified):
                    return
                if not self._drawn <= found.st_size < self._drawn * _GROWN or found.st_size < self._size:
                    self.points, self.newest, self._drawn = [], {}, found.st_size
                    for place in range(NUM_POINTS):
                        self._add(_line_at(file, found.st_size * place // NUM_POINTS))
                for line in _last_lines(file, found.st_size):
                    self.newest.update({name: float(value) for name, value in line.items() if _is_number(value)})
                    self._add(line)
                self._size, self._modified = found.st_size, found.st_mtime_ns
                self._thin()
        except OSError:
            return

    def _add(self, line: dict[str, Value] | None) -> None:
        loss = line.get("loss") if line else None
        if line and isinstance(loss, int | float) and abs(loss) < LARGEST:
            step = int(line["step"])
            while self.points and self.points[-1][0] >= step:
                self.points.pop()
            self.points.append((step, float(loss)))

    def _thin(self) -> None:
        """The last lines, of which many are read, count no more than those of the other places."""
        if len(self.points) <= 2 * NUM_POINTS:
            return
        gap = (self.points[-1][0] - self.points[0][0]) / (1.5 * NUM_POINTS)
        kept = [self.points[0]]
        for point in self.points[1:-1]:
            if point[0] - kept[-1][0] >= gap:
                kept.append(point)
        self.points = [*kept, self.points[-1]]


def sparkline(points: list[tuple[int, float]], width: int = 120, height: int = 28) -> str:
    """The path of an SVG line through the points; empty where there are fewer than two."""
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    begin, length, span = points[0][0], points[-1][0] - points[0][0], high - low or 1.0
    places = [
        ((x - begin) / length * width, height - 2 - (y - low) / span * (height - 4) if high > low else height / 2)
        for x, y in points
    ]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST


def _line_at(file: BufferedReader, place: int) -> dict[str, Value] | None:
    """The first whole line behind a place."""
    for size in (NEAR_BYTES, FAR_BYTES):
        text = os.pread(file.fileno(), size, place)
        start = text.find(b"\n") + 1 if place else 0
        end = text.find(b"\n", start)
        if end >= 0 and (start or not place):
            return decoded(text[start:end])
    return None


def _last_lines(file: BufferedReader, size: int) -> list[dict[str, Value]]:
    place = max(0, size - FAR_BYTES)
    lines = os.pread(file.fileno(), FAR_BYTES, place).split(b"\n")[1 if place else 0 : -1]
    return [line for line in map(decoded, lines) if line is not None]
