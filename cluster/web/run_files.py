"""What lies in a run folder, for pages: ends of logs, pictures, results. No link is followed out of it."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from eyespot.cluster.status.records import Records
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.plain_files import open_inside
from eyespot.data_pipeline.terminal import brief, one_line
from eyespot.eval.report.metric_columns import MetricColumns, decoded
from eyespot.eval.report.run_data import Story
from eyespot.eval.results.result import Result, read_result
from eyespot.pretrain.run_record import NAME, RunRecord
from eyespot.pretrain.tracking import metrics_file

TAIL_BYTES = 1 << 16
NUM_LINES = 40
"""Of a log."""
NUM_PICTURES = 6
"""The newest."""
LARGEST_PICTURE = 16 * 2**20
IMAGE_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
MOST_RESULTS, MOST_RESULT_BYTES = 200, 64 * 2**20
"""Files of RUN/eval that a page shows, the newest, and what they may have together."""
_WARNING = re.compile(r"\S+ \S+ (WARNING|ERROR|CRITICAL) ")
_RANK_LOG = re.compile(r"rank-(\d{1,9})\.log")


@dataclass(kw_only=True, slots=True)
class Log:
    """The end of one rank's log."""

    rank: int
    lines: list[str]


class Shown(Story):
    """A run as the report's sections take it; its shards, which may lie anywhere, are not looked at."""

    @property
    def data_name(self) -> str:
        """The last part of their path."""
        return Path(self.shards).name


class RunFiles:
    """The files of one run.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def tail(self, *names: str) -> list[bytes]:
        """The last lines of a file, without one that has no end yet; empty where it cannot be read."""
        try:
            with open_inside(self.run_dir, *names) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                text = file.read(TAIL_BYTES)
        except OSError:
            return []
        return text.split(b"\n")[0 if size <= TAIL_BYTES else 1 : -1]

    def ranks(self) -> list[int]:
        """That have a log."""
        return sorted(int(match[1]) for name in self._names("logs") if (match := _RANK_LOG.fullmatch(name)))

    def log(self, rank: int) -> Log:
        """The newest lines, of which a terminal or a page obeys nothing."""
        lines = self.tail("logs", f"rank-{rank}.log")[-NUM_LINES:]
        return Log(rank=rank, lines=[brief(one_line(line.decode(errors="replace"))) for line in lines])

    def warnings(self, log: Log) -> list[str]:
        """The lines of a log that warn, without those that were said before."""
        return list(dict.fromkeys(line for line in log.lines if _WARNING.match(line)))

    def pictures(self) -> list[str]:
        """Names of the files in RUN/pictures, the newest step first."""
        names = (name for name in self._names("pictures") if Path(name).suffix.lower() in IMAGE_TYPES)
        return sorted((name for name in names if not name.startswith(".")), reverse=True)

    def picture(self, name: str) -> tuple[str, bytes]:
        """Media type and bytes of one of them.

        Raises:
            OSError: it is not there, is no plain file, or too large.
        """
        if (kind := IMAGE_TYPES.get(Path(name).suffix.lower())) is None:
            raise FileNotFoundError(name)
        with open_inside(self.run_dir, "pictures", name) as file:
            content = file.read(LARGEST_PICTURE + 1)
        if len(content) > LARGEST_PICTURE:
            raise OSError(f"{name}: over {LARGEST_PICTURE:,} bytes")
        return kind, content

    def story(self, label: str) -> Shown:
        """The run for the report's sections: its newest lines of metrics only, which do for where the time goes."""
        lines = filter(None, map(decoded, self.tail(metrics_file.NAME)))
        record, results = self._record, self._results
        return Shown(run_dir=self.run_dir, record=record, metrics=MetricColumns(lines), results=results, label=label)

    @cached_property
    def _record(self) -> RunRecord:
        for folder in (self.run_dir, Records(self.run_dir).folder):
            try:
                return RunRecord.read(RunRecord.path(folder), needed=(), inside=self.run_dir)
            except (UserError, OSError):
                continue
        return RunRecord()

    @cached_property
    def _results(self) -> list[Result]:
        folder = self.run_dir / "eval"
        paths = [folder / name for name in self._names("eval") if name.endswith(".json")]
        newest = sorted((path for path in paths if not path.is_symlink()), key=_modified, reverse=True)[:MOST_RESULTS]
        sizes = accumulate(_modified(path)[1] for path in newest)
        kept = sorted(path for path, size in zip(newest, sizes, strict=True) if size <= MOST_RESULT_BYTES)
        return [result for path in kept if (result := read_result(path, self.run_dir)) is not None]

    def state(self) -> tuple[object, ...]:
        """What changes whenever the record or the results do."""
        folder = self.run_dir / "eval"
        names = [name for name in self._names("eval") if name.endswith(".json")]
        return (_modified(self.run_dir / NAME), *((name, _modified(folder / name)) for name in names))

    def _names(self, folder: str) -> list[str]:
        """Of what lies in one of its folders; empty where that is a link or cannot be listed."""
        place = self.run_dir / folder
        try:
            return [] if place.is_symlink() else sorted(path.name for path in place.iterdir())
        except OSError:
            return []


def _modified(path: Path) -> tuple[int, int]:
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
