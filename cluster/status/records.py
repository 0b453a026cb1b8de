"""RUN/cluster: what is written down about a run's jobs, for the jobs themselves and for those who watch them.

    jobs.jsonl         one line per submitted job
    attempts.jsonl     one line when an attempt starts and one when it ends; an attempt is one start of the ranks
    nodes/NODE.json    a supervisor's beat
    cancelled          somebody asked for a stop: never requeue

Lines are appended and never rewritten; a line that a kill or a full disk has torn is skipped by every reader.
"""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import sync, write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.run_record import RunRecord

Outcome = Literal["running", "done", "stopped", "failed", "wrong input", "doctor"]
R = TypeVar("R")
LARGEST, MOST_LINES = 16 * 2**20, 10_000
"""Bytes of a file of lines, and the newest of them that are read: an attempt on 1,000 nodes has some 15,000 bytes."""


@dataclass(kw_only=True, slots=True)
class JobLine:
    """A submitted job."""

    job: str
    """SLURM's id: "123", or "123_4" in an array."""
    kind: Literal["pretrain", "eval"]
    submitted: float
    """Seconds since 1970."""
    log: str
    """Path of the first task's stderr."""
    nodes: int
    processes: int
    """Ranks per node."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One start of the ranks, on all nodes of a job."""

    number: int
    """1, 2, ... over all jobs of the run."""
    job: str
    requeues: int
    """How often SLURM had requeued the job by then."""
    nodes: tuple[str, ...]
    start: float
    """Seconds since 1970."""
    end: float | None = None
    outcome: Outcome = "running"
    why: str = ""
    """One line, in plain words."""
    blamed: tuple[str, ...] = ()
    """Nodes that failed."""


@dataclass(kw_only=True, slots=True)
class Beat:
    """A sign of life of the supervisor on one node."""

    node: str
    job: str
    requeues: int
    time: float
    """Seconds since 1970, by the node's clock."""
    state: str
    """What it does, in plain words."""


class Records:
    """``RUN/cluster``. Nothing is made before it is written to.

    Args:
        run_dir: the run folder.
        links: whether links that lead out of it are followed: not for those who show a stranger's folder.

    Attributes:
        run_file: the resolved Run, as ``eyespot pretrain --from`` reads it.
        submission_file: what was asked for.
    """

    def __init__(self, run_dir: Path, *, links: bool = True) -> None:
        self.inside = None if links else run_dir
        self.folder = run_dir / "cluster"
        self.code = self.folder / "code"
        self.run_file = RunRecord.path(self.folder)
        self.submission_file = self.folder / "submission.json"
        self.doctor = self.folder / "doctor"
        self.meetings = self.folder / "meetings"
        self.submitit = self.folder / "submitit"
        self._jobs, self._attempts = self.folder / "jobs.jsonl", self.folder / "attempts.jsonl"
        self._nodes, self._cancelled = self.folder / "nodes", self.folder / "cancelled"

    def add_job(self, line: JobLine) -> None:
        """Notes a submission."""
        _append(self._jobs, asdict(line))

    def jobs(self) -> list[JobLine]:
        """All submissions, oldest first."""
        return list(_lines(self._jobs, JobLine, self.inside))

    def start_attempt(self, *, job: str, requeues: int, nodes: tuple[str, ...]) -> Attempt:
        """Notes that the ranks are about to start; only the first node of a job calls it."""
        number = max((attempt.number for attempt in self.attempts()), default=0) + 1
        attempt = Attempt(number=number, job=job, requeues=requeues, nodes=nodes, start=round(time.time(), 3))
        _append(self._attempts, asdict(attempt))
        return attempt

    def end_attempt(self, attempt: Attempt, outcome: Outcome, why: str, blamed: tuple[str, ...] = ()) -> Attempt:
        """Notes how it ended. The first word on an attempt holds: a node that was cut off may come back and differ."""
        line = masked(" ".join(why.split()))
        ended = replace(attempt, end=round(time.time(), 3), outcome=outcome, why=line, blamed=blamed)
        _append(self._attempts, asdict(ended))
        return ended

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        found: dict[int, Attempt] = {}
        for attempt in _lines(self._attempts, Attempt, self.inside):
            if attempt.number not in found or found[attempt.number].end is None:
                found[attempt.number] = attempt
        return [found[number] for number in sorted(found)]

    def failing_nodes(self, times: int = 2) -> list[str]:
        """Nodes that have been blamed for the end of at least so many attempts."""
        return failing_nodes(self.attempts(), times)

    def beat(self, node: str, *, job: str, requeues: int, state: str) -> None:
        """Replaces the node's sign of life."""
        self._nodes.mkdir(parents=True, exist_ok=True)
        values = Beat(node=node, job=job, requeues=requeues, time=round(time.time(), 3), state=state)
        path = self._nodes / f"{node}.json"
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(
            json.dumps(asdict(values)) + "\n", encoding="utf-8"
        )  # not forced to disk: often, and small
        temporary.replace(path)

    def beats(self) -> dict[str, Beat]:
        """The newest sign of life of each node that ever took part."""
        found = {}
        for path in sorted(self._nodes.glob("*.json")) if self._nodes.is_dir() else ():
            with contextlib.suppress(OSError, UserError):  # being replaced, where that is not atomic
                beat = foreign_json.read(path, Beat, LARGEST, self.inside)
                found[beat.node] = beat
        return found

    def ask_cancel(self) -> None:
        """From now on no job of this run is requeued."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._cancelled, f"{time.time():.0f}\n".encode())

    def forget_cancel(self) -> None:
        """It is submitted again."""
        self._cancelled.unlink(missing_ok=True)

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._cancelled.exists()


def failing_nodes(attempts: Iterable[Attempt], times: int = 2) -> list[str]:
    """Nodes that have been blamed for the end of at least so many of these attempts."""
    counts = Counter(node for attempt in attempts for node in attempt.blamed)
    return sorted(node for node, count in counts.items() if count >= times)


def _append(path: Path, values: dict[str, Any]) -> None:
    """One line in one write, which the kernel does not mix with another's; on a line of its own, whatever is before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, (b"\n" if torn else b"") + json.dumps(values).encode() + b"\n")
        sync(file)
    finally:
        os.close(file)


def _lines(path: Path, kind: type[R], inside: Path | None) -> Iterator[R]:
    """The records, without fields that a newer version has added, and without lines that are none."""
    try:
        text = foreign_json.read_bytes(path, LARGEST, inside)
    except (FileNotFoundError, UserError):  # or no plain file, or of no size for it
        return
    for line in text.splitlines()[-MOST_LINES:]:
        with contextlib.suppress(UserError):
            yield foreign_json.parse(line, kind, path)
