"""What the runs are doing: their folders, RUN/cluster and SLURM, put together."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from eyespot.cluster import slurm
from eyespot.cluster.slurm import Job, SlurmError
from eyespot.cluster.status.records import Attempt, JobLine, Records, failing_nodes
from eyespot.cluster.status.run_state import is_run, kernel_locks, read_run_state
from eyespot.data_pipeline.errors import UserError

T = TypeVar("T")
log = logging.getLogger("eyespot")

FRESH_SECONDS = 120.0
"""A run by hand on another machine that wrote nothing for longer, and for ten lines of metrics, is thought dead."""
BEAT_SECONDS = 60.0
"""A node whose supervisor did not beat for longer is told of; it beats every 5 s."""
_DEPTH = 3
_FAR_SECONDS = 30 * 86400.0

State = Literal["new", "waiting", "running", "stopping", "done", "stopped", "failed", "unknown"]
OVER: tuple[State, ...] = ("done", "stopped", "failed")


@dataclass(kw_only=True, slots=True, frozen=True)
class Status:
    """One run, now. Times are seconds since 1970; None where nothing is known."""

    run: str
    """The run folder, as it was asked for."""
    recipe: str
    state: State
    words: str
    """The state, and the reason for it, for people."""
    job: str | None
    """The newest job that trains it."""
    job_state: str | None
    """SLURM's own word."""
    nodes: tuple[str, ...]
    """That it has, or had last."""
    num_nodes: int | None
    """That it has or asks for."""
    step: int
    steps: int | None
    loss: float | None
    images_per_second: float | None
    seconds_left: float | None
    """Until its last step, at the speed of its newest steps; of a run that is not over."""
    job_seconds_left: float | None
    """Until SLURM's time limit."""
    checkpoint_step: int | None
    checkpoint_time: float | None
    requeues: int | None
    """Of the newest job."""
    notes: tuple[str, ...]
    """What else matters, one line each."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Survey:
    """All runs that were asked for."""

    time: float
    runs: tuple[Status, ...]
    slurm_error: str | None
    """Why SLURM could not be asked; the runs are then what their folders tell."""

    def values(self) -> dict[str, Any]:
        """For JSON, which has no word for NaN and the infinities: they become text, as in metrics.jsonl."""
        values = asdict(self)
        for run in values["runs"]:
            run.update({name: str(value) for name, value in run.items() if _is_wild(value)})
        return values


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Run folders: the places that are some, and those inside the others (folders of runs, sweeps).

    Raises:
        UserError: a place does not exist, or none holds a run.
    """
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; name a run folder, or a folder of runs")
    found = list(dict.fromkeys(run for place in places for run in runs_inside(place)))
    if not found:
        raise UserError(f"{', '.join(map(str, places))}: holds no runs; start one with eyespot pretrain or launch")
    return found


def runs_inside(place: Path, unread: list[OSError] | None = None, depth: int = _DEPTH) -> Iterator[Path]:
    """The place, if it is a run folder, else those inside it, some floors deep; links are not followed.

    Args:
        place: a folder.
        unread: gets why a folder cannot be looked into, which is otherwise raised.
        depth: floors.
    """
    try:
        if is_run(place):
            yield place
            return
        children = sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink()) if depth else []
    except OSError as error:
        if unread is None:
            raise
        unread.append(error)
        return
    for child in children:
        yield from runs_inside(child, unread, depth - 1)


def survey(run_dirs: Sequence[Path], *, links: bool = True) -> Survey:
    """The status of these runs, with one question to SLURM for all of them; one that cannot be told hides no other.

    Args:
        run_dirs: their folders.
        links: whether links that lead out of them are followed.
    """
    records = [Records(run_dir, links=links) for run_dir in run_dirs]
    lines = [_or_error(record.jobs) for record in records]
    jobs, error = ask_slurm(line.job for own in lines if not isinstance(own, Exception) for line in own)
    now, locks = time.time(), kernel_locks()

    def status(run_dir: Path, record: Records, own: list[JobLine] | Exception) -> Status:
        if isinstance(own, Exception):
            return _untold(run_dir, own)
        found = _or_error(lambda: _Look(run_dir, record, own, jobs, error, now, locks).status())
        return _untold(run_dir, found) if isinstance(found, Exception) else found

    runs = map(status, run_dirs, records, lines)
    return Survey(time=now, runs=tuple(runs), slurm_error=error)


def ask_slurm(ids: Iterable[str]) -> tuple[dict[str, Job], str | None]:
    """What SLURM knows of these jobs, or why it could not be asked."""
    wanted = list(ids)
    if wanted and not slurm.available():
        return {}, "its commands are not installed here"
    try:
        return slurm.find_jobs(wanted), None
    except SlurmError as error:
        return {}, str(error)


def duration(seconds: float) -> str:
    """For people: "35 s", "12 min", "3 h 20 min", "2 d 4 h"; "?" of what is no time."""
    if not math.isfinite(seconds):
        return "?"
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(0, seconds):.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def _or_error(tell: Callable[[], T]) -> T | Exception:
    """What is told of a run, or why nothing is: whatever stands in its folder, others are to be told of as well."""
    try:
        return tell()
    except Exception as error:
        log.debug("a run cannot be told", exc_info=True)
        return error


def _untold(run_dir: Path, error: Exception) -> Status:
    """Of a run whose folder cannot be read."""
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    values: dict[str, Any] = {field.name: None for field in fields(Status)}
    values |= {"run": str(run_dir), "recipe": "", "state": "unknown", "words": f"cannot be read ({why})", "step": 0}
    values |= {"nodes": (), "notes": ()}
    return Status(**values)


def _is_wild(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class _Look:
    """Everything known of one run, on its way to its status."""

    def __init__(
        self,
        run_dir: Path,
        records: Records,
        lines: list[JobLine],
        jobs: dict[str, Job],
        slurm_error: str | None,
        now: float,
        locks: str,
    ) -> None:
        self.run_dir, self.records, self.jobs, self.slurm_error, self.now = run_dir, records, jobs, slurm_error, now
        self.line = next((line for line in reversed(lines) if line.kind == "pretrain"), None)
        self.evals = [line for line in lines if line.kind == "eval"]
        self.job = jobs.get(self.line.job) if self.line else None
        self.alive = slurm.alive(self.job)
        self.all_attempts = records.attempts()
        self.attempts = [attempt for attempt in self.all_attempts if self.line and attempt.job == self.line.job]
        self.attempt: Attempt | None = self.attempts[-1] if self.attempts else None
        self.run_state = read_run_state(run_dir, locks, links=records.inside is None)

    def status(self) -> Status:
        run_state, job = self.run_state, self.job
        state, words = self._submitted() if self.line else self._by_hand()
        going_on = state in ("running", "waiting", "unknown") and run_state.steps is not None
        pace = run_state.seconds_per_step if going_on else None
        return Status(
            run=str(self.run_dir),
            recipe=run_state.recipe,
            state=state,
            words=words,
            job=self.line.job if self.line else None,
            job_state=job.state if job else None,
            nodes=(job.nodes if job else ()) or (self.attempt.nodes if self.attempt and not self.alive else ()),
            num_nodes=job.num_nodes if job else self.line.nodes if self.line else None,
            step=run_state.step,
            steps=run_state.steps,
            loss=run_state.loss,
            images_per_second=run_state.images_per_second,
            seconds_left=pace * max(0, (run_state.steps or 0) - run_state.step) if pace is not None else None,
            job_seconds_left=job.seconds_left if job else None,
            checkpoint_step=run_state.checkpoint_step,
            checkpoint_time=run_state.checkpoint_time,
            requeues=self._requeues(),
            notes=tuple(self._notes(state, words)),
        )

    def _submitted(self) -> tuple[State, str]:
        """Of a run that was submitted: what SLURM says while the job lives, then what was written at its end."""
        if self.job is not None and self.alive:
            return self._in_queue(self.job)
        if self.run_state.holder is not None and not self.slurm_error:
            return "running", f"running here (process {self.run_state.holder}), its job is over"
        if self.attempt is not None and self.attempt.outcome != "running":
            kinds: dict[str, State] = {"done": "done", "stopped": "stopped"}
            return kinds.get(self.attempt.outcome, "failed"), _first_word(self.attempt.outcome)
        if self.slurm_error:
            return self._without_slurm()
        if self.job is None:
            return "failed", "ended without a word; SLURM does not know the job any more"
        kinds = {"COMPLETED": "done", "CANCELLED": "stopped", "TIMEOUT": "stopped", "PREEMPTED": "stopped"}
        return kinds.get(self.job.state, "failed"), slurm.in_words(self.job)

    def _in_queue(self, job: Job) -> tuple[State, str]:
        words = slurm.in_words(job)
        if job.state == "PENDING" and job.restarts:
            words = f"requeued, {words}"
        if job.state not in ("RUNNING", "COMPLETING"):
            ahead = job.start - self.now if job.start else 0.0
            expected = f"; expected to start in {duration(ahead)}" if 60 < ahead < _FAR_SECONDS else ""
            return "waiting", words + expected
        if self.records.cancelled:
            return "stopping", "asked to stop: saves and ends"
        if job.state == "COMPLETING":
            return "stopping", words
        doing = self._doing(job)
        if doing.startswith("stopping"):
            return "stopping", doing
        if self.attempt is not None and self.attempt.outcome == "running" and self._logged() >= self.attempt.start:
            return "running", words
        return "running", f"{words}, no step yet{f': {doing}' if doing else ''}"

    def _doing(self, job: Job) -> str:
        """What the supervisor of the job's first node says that it does."""
        beat = self.records.beats().get(job.nodes[0]) if job.nodes else None
        if beat is None or beat.job != job.id or beat.requeues < (job.restarts or 0):
            return ""
        return beat.state

    def _logged(self) -> float:
        return self.run_state.logged or 0.0

    def _without_slurm(self) -> tuple[State, str]:
        """SLURM does not answer, and no end was written."""
        times = [beat.time for beat in self.records.beats().values() if self.line and beat.job == self.line.job]
        if not times:
            return "unknown", "submitted; SLURM does not answer"
        age = self.now - max(times)
        if age < BEAT_SECONDS:
            return "running", "running, say its nodes"
        return "unknown", f"its nodes are silent for {duration(age)}; SLURM does not answer"

    def _by_hand(self) -> tuple[State, str]:
        """Of a run that was not submitted: the lock of its folder, and how its log ends."""
        run_state = self.run_state
        if run_state.holder is not None:
            return "running", f"running here (process {run_state.holder})"
        if run_state.end == "done" and run_state.steps is not None and run_state.step < run_state.steps:
            return "stopped", "stopped as asked (--stop-after)"
        if run_state.end is not None:
            return run_state.end, _first_word(run_state.end)
        if run_state.written is None:
            return "new", "not started"
        silent = self.now - run_state.written
        if silent < max(FRESH_SECONDS, 10 * (run_state.seconds_between_lines or 0)):
            return "running", f"running on {run_state.host}" if run_state.host else "running"
        return "failed", f"ended without a word {duration(silent)} ago (killed?)"

    def _requeues(self) -> int | None:
        known = [attempt.requeues for attempt in self.attempts]
        if self.job is not None and self.job.restarts is not None:
            known.append(self.job.restarts)
        return max(known, default=0 if self.line else None)

    def _notes(self, state: State, words: str) -> Iterator[str]:
        ended = [attempt for attempt in self.attempts if attempt.outcome not in ("running", "done")]
        told = ended[-1].why if ended and state != "done" else ""
        if told:
            which = "" if self.attempt is ended[-1] else f"attempt {ended[-1].number} {ended[-1].outcome}: "
            yield which + told
        elif state == "failed" and self.run_state.end_line:
            yield self.run_state.end_line
        if failing := failing_nodes(self.all_attempts):
            yield f"failed twice, excluded: {', '.join(failing)}"
        if state == "running":
            yield from self._silences()
        elif self.records.cancelled and state in OVER and "cancelled" not in told + words:
            yield "cancelled"
        yield from self._evaluations()
        if state in ("stopped", "failed"):
            yield f"go on with: {self._again()}"

    def _silences(self) -> Iterator[str]:
        if self.line is not None and self.job is not None:
            for node, beat in self.records.beats().items():
                if node in self.job.nodes and beat.job == self.line.job and self.now - beat.time > BEAT_SECONDS:
                    yield f"{node}: no sign of life for {duration(self.now - beat.time)}"
        every = self.run_state.seconds_between_lines
        since = max(self._logged(), self.attempt.start if self.attempt else 0.0)
        if every is not None and self.now - since > max(FRESH_SECONDS, 10 * every):
            yield f"no step logged for {duration(self.now - since)}; usually one every {duration(every)}"

    def _evaluations(self) -> Iterator[str]:
        for line in self.evals:
            job = self.jobs.get(line.job)
            if slurm.alive(job):
                yield f"evaluation: job {line.job} {slurm.in_words(job)}"
            elif job is not None and job.state != "COMPLETED":
                yield f"evaluation: job {line.job} {slurm.in_words(job)}; its log: {line.log}"

    def _again(self) -> str:
        if self.records.submission_file.exists():
            return f"eyespot launch --again {self.run_dir}"
        return f"eyespot pretrain --from {self.run_dir} --run-dir {self.run_dir} --resume auto"


def _first_word(outcome: str) -> str:
    return {
        "done": "done",
        "stopped": "stopped, saved",
        "wrong input": "its input is wrong",
        "doctor": "stopped by the doctor before training",
    }.get(outcome, outcome)
