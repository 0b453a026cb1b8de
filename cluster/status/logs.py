"""Reads the logs of a run as they grow: of its ranks, or what SLURM caught of a job's output."""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eyespot.cluster.status.records import JobLine, Records
from eyespot.cluster.status.survey import OVER, Status, survey
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.plain_files import open_plain

POLL_SECONDS = 0.5
STATUS_SECONDS = 5.0
"""Between looks at whether the run lives, while nothing new is written."""
_BLOCK_BYTES = 1 << 16

_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+")

Source = Callable[[], dict[str, Path]]
"""The files to read, by what stands before their lines; asked again and again, since files come later."""


class Line(NamedTuple):
    """A line, and which file it is from."""

    label: str
    text: str


@dataclass(slots=True)
class Growing:
    """A text file that is read as it grows, and read anew where another takes its place.

    It is opened for every look: on a network disk an open file shows what others append much later.
    """

    path: Path
    _inode: int = 0
    _place: int = 0
    _rest: bytes = b""

    def last_lines(self, number: int) -> list[str]:
        """The newest lines; later calls of ``new_lines`` go on after them."""
        try:
            with open_plain(self.path) as file:
                self._inode, end = _identity(file.fileno())
                start, text = end, b""
                while start > 0 and text.count(b"\n") <= number:
                    start = max(0, start - _BLOCK_BYTES)
                    file.seek(start)
                    text = file.read(end - start)
        except (OSError, UserError):
            return []
        self._place = end
        *lines, self._rest = text.split(b"\n")
        return [_text(line) for line in lines[len(lines) - min(number, len(lines)) :]]

    def new_lines(self) -> list[str]:
        """What was written since; whole lines only."""
        try:
            with open_plain(self.path) as file:
                inode, end = _identity(file.fileno())
                if inode != self._inode or end < self._place:
                    self._inode, self._place, self._rest = inode, 0, b""
                file.seek(self._place)
                text = self._rest + file.read()
                self._place = file.tell()
        except (OSError, UserError):
            return []
        *lines, self._rest = text.split(b"\n")
        return [_text(line) for line in lines]


class Reader:
    """Reads a changing set of files as one.

    Args:
        source: which files.
        num_lines: that are shown of what each of them holds at first.
    """

    def __init__(self, source: Source, num_lines: int) -> None:
        self._source, self._num_lines = source, num_lines
        self._files: dict[str, Growing] = {}

    def first(self) -> list[Line]:
        """The newest lines of the files that are there."""
        return self._read(lambda file: file.last_lines(self._num_lines))

    def more(self) -> list[Line]:
        """What came since, files too."""
        return self._read(Growing.new_lines)

    def _read(self, read: Callable[[Growing], list[str]]) -> list[Line]:
        for label, path in self._source().items():
            if label not in self._files or self._files[label].path != path:
                self._files[label] = Growing(path)
        return _merged({label: read(file) for label, file in self._files.items()})


def rank_logs(run_dir: Path, rank: int | None) -> Source:
    """The log of one rank, or of all."""

    def find() -> dict[str, Path]:
        found = {int(match[1]): path for path, match in _matches(run_dir / "logs", r"rank-(\d+)\.log")}
        if rank is not None:
            return {"": found[rank]} if rank in found else {}
        return {f"rank {number}": found[number] for number in sorted(found)}

    return find


def job_output(run_dir: Path) -> Source:
    """What SLURM caught of the newest job that has begun, of each of its tasks (one per node)."""

    def find() -> dict[str, Path]:
        for line in reversed(Records(run_dir).jobs()):
            if files := _job_files(line):
                return files
        return {}

    return find


def check_rank(run_dir: Path, rank: int) -> None:
    """Raises a UserError where the run has begun and has no such rank."""
    ranks = [int(match[1]) for _, match in _matches(run_dir / "logs", r"rank-(\d+)\.log")]
    if ranks and rank not in ranks:
        there = f"ranks {min(ranks)} to {max(ranks)}" if len(ranks) > 1 else f"rank {ranks[0]}"
        raise UserError(f"--rank {rank}: {run_dir} has logs of {there}; name one that it has")


def follow(run_dir: Path, reader: Reader, say: Callable[[str], None]) -> Iterator[list[Line]]:
    """Yields what is written, through requeues and restarts, until the run is over.

    Args:
        run_dir: the run.
        reader: of its logs, whose ``first`` has been called.
        say: is told what the run waits for while nothing is written.
    """
    looked, over, said = time.monotonic() - STATUS_SECONDS, 0, ""
    while True:
        if lines := reader.more():
            looked, over = time.monotonic(), 0
            yield lines
        elif time.monotonic() - looked >= STATUS_SECONDS:
            looked, status = time.monotonic(), survey([run_dir]).runs[0]
            over = over + 1 if status.state in OVER else 0
            words = what_now(status)
            if over == 2 or status.state == "done":  # a failed run may be about to be started again
                if lines := reader.more():
                    yield lines
                return say(words)
            if words != said and status.state != "running":
                say(words)
            said = words
        time.sleep(POLL_SECONDS)


def what_now(status: Status) -> str:
    """What the run does, in one line."""
    job = f"job {status.job}: " if status.job else ""
    return f"{status.run}: {job}{status.words}"


def _job_files(line: JobLine) -> dict[str, Path]:
    first = Path(line.log)
    pattern = rf"{re.escape(line.job)}_(\d+)_log\.(out|err)"
    found = {(int(match[1]), match[2]): path for path, match in _matches(first.parent, pattern)}
    if not found:
        return {"": first} if first.exists() else {}
    alone = len({task for task, _ in found}) == 1
    return {stream if alone else f"task {task} {stream}": found[task, stream] for task, stream in sorted(found)}


def _matches(folder: Path, pattern: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := re.fullmatch(pattern, path.name):
            yield path, match


def _merged(lines: dict[str, list[str]]) -> list[Line]:
    """In the order of the times that the lines begin with; one without a time follows the line before it."""
    stamped: list[tuple[str, Line]] = []
    for label, texts in lines.items():
        stamp = ""
        for text in texts:
            stamp = found[0] if (found := _STAMP.match(text)) else stamp
            stamped.append((stamp, Line(label, text)))
    return [line for _, line in sorted(stamped, key=lambda pair: pair[0])]


def _identity(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_ino, status.st_size


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")
