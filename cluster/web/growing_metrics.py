"""GrowingMetrics: the metrics.jsonl of a run as it grows, read from where the last look ended, in bounded memory.

Nothing is believed of the file: it may be cut, replaced (rsync), deleted and on a disk that does not answer, and its
lines may hold anything.
"""

import os
import threading
import time
from collections.abc import Iterator
from io import BufferedReader
from itertools import pairwise, takewhile
from pathlib import Path

from eyespot.cluster.web.envelopes import Series
from eyespot.data_pipeline.plain_files import open_inside
from eyespot.eval.report.metric_columns import MetricColumns, decoded
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.metrics_file import Value

BLOCK_BYTES = 1 << 18
"""Read at once, and the longest line: one of 2,000 metrics has a third of it."""
MOST_NAMES = 2000
MOST_POINTS = 1 << 24
"""Of all metrics of a run together, 16 or 32 bytes each."""
_MARK_BYTES = 256


class GrowingMetrics:
    """What a run has logged, by name.

    Args:
        run_dir: the run folder.

    Attributes:
        lock: to be held by whoever calls ``read`` or looks at ``series``.
        series: every number.
        epoch: rises when what was read before holds no more: the file was replaced, the run went back.
        problem: why the file cannot be read; empty where it can, or where there is none yet.
        num_left_out: lines that are damaged or too long.
        names_left_out: numbers beyond ``MOST_NAMES``, counted once per block that has them.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.lock = threading.Lock()
        self.epoch, self.problem = 0, ""
        self._size = 0
        self._forget()

    @property
    def last_step(self) -> int:
        """Of the newest line; -1 where there is none."""
        return self._last_step

    @property
    def nbytes(self) -> int:
        """Of memory that the numbers take."""
        return sum(series.nbytes for series in list(self.series.values()))

    @property
    def share_read(self) -> float:
        """Of the file, 0..1."""
        return min(1.0, self._place / self._size) if self._size else 1.0

    def read(self, seconds: float | int) -> bool:
        """Reads what is new, for about so long at most; True where it is read to its end, or cannot be read."""
        end = time.monotonic() + seconds
        try:
            with open_inside(self.run_dir, metrics_file.NAME) as file:
                self._size = os.fstat(file.fileno()).st_size
                if self._place and not self._continues(file):
                    self._forget()
                while (more := self._read_block(file)) and time.monotonic() < end:
                    pass
                self.problem = ""
                return not more
        except FileNotFoundError:
            self.problem = "" if not self._place and _is_folder(self.run_dir) else "metrics.jsonl is not there any more"
        except OSError as error:  # ESTALE, EACCES, EIO: shown, and tried again at the next look
            self.problem = f"metrics.jsonl cannot be read ({error.strerror or error})"
        return True

    def _forget(self) -> None:
        self.series: dict[str, Series] = {}
        self.num_left_out, self.names_left_out = 0, 0
        self._place, self._mark, self._skipping, self._last_step = 0, b"", False, -1
        self.epoch += 1

    def _continues(self, file: BufferedReader) -> bool:
        """Whether what was read last still stands before the place where it ended; another inode proves nothing."""
        if self._size < self._place:
            return False
        file.seek(self._place - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def _read_block(self, file: BufferedReader) -> bool:
        """Takes the whole lines of the next block; False where there are none.

        A line without its end is read again the next time: a resumed run may cut it off and write another one.
        """
        file.seek(self._place)
        block = file.read(BLOCK_BYTES)
        end = block.rfind(b"\n") + 1
        if not end:
            if len(block) < BLOCK_BYTES:
                return False
            end, lines, self._skipping = len(block), [], True
        else:
            lines = block[:end].split(b"\n")[:-1]
            if self._skipping:
                lines, self._skipping = lines[1:], False
                self.num_left_out += 1
        self._place += end
        self._mark = (self._mark + block[:end])[-_MARK_BYTES:]
        self._take(lines)
        return self._place < self._size

    def _take(self, lines: list[bytes]) -> None:
        found = [values for line in lines if (values := decoded(line)) is not None]
        self.num_left_out += len(lines) - len(found)
        for rising in _rising(found):
            first = int(rising[0]["step"])
            if first <= self._last_step:
                for series in self.series.values():
                    series.cut(first)
                self.epoch += 1
            self._last_step = int(rising[-1]["step"])
            self._extend(MetricColumns(rising))
        while sum(map(len, self.series.values())) > MOST_POINTS:
            for series in self.series.values():
                series.halve()
            self.epoch += 1

    def _extend(self, columns: MetricColumns) -> None:
        for name in sorted(columns.names()):
            if name not in self.series and len(self.series) >= MOST_NAMES:
                self.names_left_out += 1
            elif self.series.setdefault(name, Series()).extend(*columns.points(name)):
                self.epoch += 1


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _rising(lines: list[dict[str, Value]]) -> Iterator[list[dict[str, Value]]]:
    """The lines in pieces whose steps rise: a step that was logged again replaces it and what came after."""
    while lines:
        size = 1 + sum(1 for _ in takewhile(lambda pair: int(pair[1]["step"]) > int(pair[0]["step"]), pairwise(lines)))
        yield lines[:size]
        lines = lines[size:]
