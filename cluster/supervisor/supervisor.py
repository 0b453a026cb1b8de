"""The supervisor of a node, for one start of a job by SLURM.

All supervisors of a job see the same ends of the same ranks and report them. The first node's judges, and decides:
start again here, ask SLURM for another start, or end. Its word is the next meeting's.
"""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eyespot.cluster import slurm
from eyespot.cluster.processes import Place, Ranks, free_port
from eyespot.cluster.status.records import Attempt, Records
from eyespot.cluster.supervisor.diagnosis import CUT_OFF, Diagnosis, Report, diagnose, diagnose_lost
from eyespot.cluster.supervisor.node_barrier import NodeBarrier
from eyespot.cluster.supervisor.rank_monitor import RankShift, StopRequest
from eyespot.cluster.supervisor.requeue import after_stop, ask, requeue_avoiding
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.terminal import one_line, plural
from eyespot.pretrain.checkpoints.folders import newest, step_of
from eyespot.pretrain.distributed.exit_report import ATTEMPT
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord

WAIT_SECONDS = 0.5
BEAT_SECONDS = 5.0
COME_SECONDS = 300.0
"""For all nodes to start Python: prologs, containers and cold file systems take their time."""
RETURN_SECONDS = 90.0
"""For all nodes to report, or to come to the next attempt, once one has."""
SLURM_SECONDS = 120.0
"""A controller that is restarted, or fails over, is silent for so long."""
DOCTOR_SECONDS = 300.0
_ENDS = {"done": ExitCode.DONE, "wrong input": ExitCode.WRONG_INPUT}
"""Outcomes that no other start would change."""

Word = dict[str, Any]
"""The first node's, in a meeting: {"end": exit code}, or {"attempt": number, "port": of rank 0}."""


@dataclass(kw_only=True, slots=True)
class Orders:
    """What the user wants of a job."""

    run_dir: Path
    words: tuple[str, ...]
    """Of the command that every rank runs, as in ("pretrain", "--from", ...)."""
    processes: int
    """Ranks per node."""
    kind: Literal["pretrain", "eval"] = "pretrain"
    """An evaluation is run once: it is neither started again nor requeued."""
    max_requeues: int
    """Requeues of a job, whoever asked for them, after which it ends."""
    max_restarts: int
    """Starts of the ranks in the job after failures in a row, without a new checkpoint in between."""
    doctor: bool
    """Examine the nodes first."""


class Superseded(Exception):
    """The run was started anew elsewhere: this node had been cut off, and must not write to the run folder."""


class Supervisor:
    """Made by the job's task on each node, in its main thread: it takes over the signals."""

    def __init__(self, orders: Orders, place: Place) -> None:
        self.stop = StopRequest()
        self.orders, self.place, self.records = orders, place, Records(orders.run_dir)
        self.first, self.trains = place.index == 0, orders.kind == "pretrain"
        self.others = tuple(node for node in place.nodes if node != place.node)
        self._attempt: Attempt | None = None  # the first node's, while it goes on
        self._newest = 0  # number of the newest attempt that this supervisor takes part in
        self._number = 0  # of the meeting
        self._failures, self._saved = 0, -1
        self._beat_at = 0.0

    def run(self) -> int:
        """The exit code of this node's task."""
        try:
            code = self._run()
        except Superseded as error:
            self._say(str(error))
            return ExitCode.FAILED  # without a beat: it may be this very node's name that the new start uses
        except OSError as error:
            self._say(f"the run folder cannot be used: {error}")
            self._release()
            return ExitCode.FAILED
        except BaseException:
            self._release()
            raise
        self._beat(f"ended with exit code {code}" if code else "ended")
        return code

    def _release(self) -> None:
        """The others wait for the first node's word, in this meeting or in the next."""
        for number in (self._number, self._number + 1) if self.first else ():
            with contextlib.suppress(OSError):
                self._barrier(number).post("go", {"end": ExitCode.FAILED})

    def _run(self) -> int:
        if self.trains:
            word = self._open() if self.first else self._await(self._barrier(0), COME_SECONDS)
            if "end" in word:
                return word["end"]
            if self.orders.doctor and (code := self._examine()) is not None:
                return code
        for number in itertools.count(1):
            self._number = number
            barrier, seconds = self._barrier(number), COME_SECONDS if number == 1 else RETURN_SECONDS
            if number > 1 and not self._job_is_ours():
                return ExitCode.STOPPED
            word = self._lead(barrier, seconds) if self.first else self._follow(barrier, seconds)
            if "end" in word:
                return word["end"]
            self._newest = word["attempt"]
            report = self._run_ranks(word["port"], barrier)
            barrier.post(f"report-{self.place.node}", report.values())
            if self.first and (code := self._decide(self._diagnose(barrier, report))) is not None:
                self._barrier(number + 1).post("go", {"end": code})
                return code
        raise AssertionError("counts for ever")

    # Before the ranks.

    def _open(self) -> Word:
        """The first node's first word: whether this start of the job may go on at all."""
        code = self._refuse()
        word: Word = {} if code is None else {"end": code}
        self._barrier(0).post("go", word)
        return word

    def _refuse(self) -> int | None:
        """Closes attempts that have no end; an exit code where the job must not go on here."""
        for attempt in self.records.attempts():
            if attempt.end is not None:
                continue
            other = ask(attempt.job) if attempt.job != self.place.job else None
            if other is not None and other.state in ("RUNNING", "SUSPENDED"):
                self._say(f"job {attempt.job} runs {self.orders.run_dir} already; wait for it, or eyespot cancel it")
                return ExitCode.WRONG_INPUT
            self._close_lost(attempt)
        if self.place.requeues > self.orders.max_requeues:
            return self._end(
                ExitCode.STOPPED, f"requeued {plural(self.place.requeues, 'time')}, more than --max-requeues allows"
            )
        if bad := self._failing():
            return self._go_elsewhere(f"{', '.join(bad)} failed twice in this run")
        return None

    def _close_lost(self, attempt: Attempt) -> None:
        try:
            down = slurm.down_nodes(attempt.nodes)
        except slurm.SlurmError:
            down = []
        found = diagnose_lost(attempt, self.records.beats(), down)
        self.records.end_attempt(attempt, found.outcome, found.why, found.blamed)
        self._note(f"attempt {attempt.number}, job {attempt.job}: {found.why}")

    def _examine(self) -> int | None:
        """Asks the doctor; an exit code where the job must not go on."""
        from eyespot.cluster.doctor.examine import examine

        self._beat("doctor examines the node")
        verdict = examine(self.orders.run_dir, self.place, f"{self.place.job}-{self.place.requeues}", DOCTOR_SECONDS)
        if verdict.ok or self.stop.signal is not None:  # stops are judged where all of them are
            return None
        if self.first:
            self._start_attempt()
            self._close(Diagnosis(outcome="doctor", why=verdict.why))
        return ExitCode.WRONG_INPUT

    def _lead(self, barrier: NodeBarrier, seconds: float) -> Word:
        """Waits until all nodes are here, then says where rank 0 will listen."""
        ready = self._wait(lambda: not self._absent(barrier), seconds, "waits for the other nodes")
        word: Word
        if self.stop.signal is not None:
            word = {"end": self._after_stop(Diagnosis(outcome="stopped", why="stopped before the ranks started"))}
        elif ready:
            self._start_attempt()
            word = {"attempt": self._newest, "port": free_port()}
        else:
            absent = self._absent(barrier)
            self._start_attempt()
            why = f"{', '.join(absent)} did not come within {seconds:.0f} s"
            self._close(Diagnosis(outcome="failed", why=why, blamed=absent))
            word = {"end": self._go_elsewhere(why)}
        barrier.post("go", word)
        return word

    def _absent(self, barrier: NodeBarrier) -> tuple[str, ...]:
        there = barrier.read_all("ready", self.others)
        return tuple(node for node in self.others if node not in there)

    def _follow(self, barrier: NodeBarrier, seconds: float) -> Word:
        """Says that this node is here, and waits for the first node's word."""
        barrier.post(f"ready-{self.place.node}", {"time": time.time()})
        return self._await(barrier, seconds + 2 * RETURN_SECONDS)

    def _await(self, barrier: NodeBarrier, seconds: float) -> Word:
        heard: list[Word] = []

        def said() -> bool:
            if (word := barrier.read("go")) is not None:
                heard.append(word)
            return word is not None

        if self._wait(said, seconds, f"waits for {self.place.nodes[0]}", through_stop=True):
            return heard[0]
        self._say(f"{self.place.nodes[0]} said nothing for {seconds:.0f} s")
        return {"end": ExitCode.FAILED}

    def _job_is_ours(self) -> bool:
        """Whether SLURM still runs this start of the job: a node that was cut off gets no answer."""
        if not slurm.available():
            return True  # in a container nobody can be asked: a newer start shows in the run folder
        found: list[slurm.Job | None] = []

        def answered() -> bool:
            try:
                found.append(slurm.find_job(self.place.job))
            except slurm.SlurmError:
                return False
            return True

        if not self._wait(answered, SLURM_SECONDS, "asks SLURM whether the job is still its own", through_stop=True):
            self._beat(CUT_OFF)
            self._say("SLURM does not answer: this node starts nothing")
            return False
        job = found[0]
        return job is not None and job.state == "RUNNING" and (job.restarts or 0) == self.place.requeues

    # The ranks, and what came of them.

    def _run_ranks(self, port: int, barrier: NodeBarrier) -> Report:
        ranks = Ranks(self.orders.words, self.place, port, env={ATTEMPT: str(self._newest)})
        try:
            return RankShift(
                ranks,
                self.place.node,
                self.stop,
                saves=self.trains,
                logs=self.orders.run_dir / "logs",
                peers_failed=lambda: any(report.failed for report in self._reports(barrier).values()),
                tick=self._tick,
            ).watch()
        finally:
            ranks.close()

    def _reports(self, barrier: NodeBarrier) -> dict[str, Report]:
        return {node: Report.of(values) for node, values in barrier.read_all("report", self.others).items()}

    def _diagnose(self, barrier: NodeBarrier, own: Report) -> Diagnosis:
        """Gathers what all nodes report: within seconds after a stop, for SLURM kills soon."""
        seconds = 10.0 if self.stop.signal is not None else RETURN_SECONDS

        def all_there() -> bool:
            return len(self._reports(barrier)) == len(self.others)

        self._wait(all_there, seconds, "waits for the other nodes' reports", through_stop=True)
        return diagnose(self.place, {**self._reports(barrier), self.place.node: own})

    def _decide(self, found: Diagnosis) -> int | None:
        """Writes down what was found, and acts: the job's exit code, or None for another start here."""
        if not self.trains:
            return _ENDS.get(found.outcome, ExitCode.FAILED)
        if self.stop.signal is not None or found.outcome == "stopped":
            return self._after_stop(found)
        if found.again and not self._job_is_ours():
            # The attempt stays open: to a node that is cut off it is always the others who are silent.
            return ExitCode.STOPPED
        self._close(found)
        if not found.again:
            return _ENDS[found.outcome] if found.outcome in _ENDS else self._end(ExitCode.FAILED, found.why)
        saved = self._newest_checkpoint()
        self._failures, self._saved = (self._failures if saved <= self._saved else 0) + 1, max(saved, self._saved)
        if bad := self._failing():
            return self._go_elsewhere(f"{', '.join(bad)} failed twice in this run")
        if found.lost:
            return self._go_elsewhere(found.why)
        if self._failures > self.orders.max_restarts:
            why = f"failed {plural(self._failures, 'time')} without a new checkpoint, the last time: {found.why}"
            return self._end(ExitCode.FAILED, why)
        self._note(f"{found.why}; the ranks start again")
        return None

    def _after_stop(self, found: Diagnosis) -> int:
        """A signal came: whether the job goes on by itself is SLURM's word, and cancel's, and the user's."""
        if not self.trains:
            return ExitCode.STOPPED
        job = ask(self.place.job)
        plan = after_stop(job, self.place, cancelled=self.records.cancelled, max_requeues=self.orders.max_requeues)
        name = self.stop.signal.name if self.stop.signal is not None else "a signal"
        why = f"{found.why}; {plan.why}" if found.outcome != "stopped" else f"stopped by {name}: {plan.why}"
        refusal = requeue_avoiding(self.place.job, avoid=self._failing()) if plan.do == "requeue" else None
        self._close(
            Diagnosis(outcome=found.outcome if found.outcome != "done" else "stopped", why=why, blamed=found.blamed)
        )
        if plan.do == "leave" or (plan.do == "requeue" and refusal is None):
            self._note(f"{why}; goes on in the next start of job {self.place.job}")
            return ExitCode.STOPPED
        return self._end(ExitCode.STOPPED, why if refusal is None else f"{why}, and may not be requeued ({refusal})")

    def _go_elsewhere(self, why: str) -> int:
        """Asks SLURM for another start on other nodes: without those that failed twice."""
        avoid = self._failing(of_the_job=False)
        if self.place.requeues >= self.orders.max_requeues:
            return self._end(ExitCode.FAILED, f"{why}; requeued {plural(self.place.requeues, 'time')}, the most it may")
        refusal = requeue_avoiding(self.place.job, avoid=avoid)
        if refusal is not None:
            return self._end(ExitCode.FAILED, f"{why}; may not be requeued ({refusal})")
        without = f", without {', '.join(avoid)}" if avoid else ""
        self._note(f"{why}; requeued{without}")
        return ExitCode.STOPPED

    def _end(self, code: int, why: str) -> int:
        """Says how it ended and how to go on."""
        saved = self._newest_checkpoint()
        where = f"at step {saved} with a checkpoint" if saved >= 0 else "before the first checkpoint"
        stopped = code == ExitCode.STOPPED
        line = f"stopped {where} ({why})" if stopped else f"failed: {why}; the last good state is {where}"
        self._note(f"{line}; resume with: eyespot launch --again {self.orders.run_dir}")
        return code

    # What is written down.

    def _start_attempt(self) -> None:
        if self.trains:
            self._attempt = self.records.start_attempt(
                job=self.place.job, requeues=self.place.requeues, nodes=self.place.nodes
            )
            self._newest = self._attempt.number

    def _close(self, found: Diagnosis) -> None:
        if self._attempt is not None:
            self.records.end_attempt(self._attempt, found.outcome, found.why, found.blamed)
            self._attempt = None

    def _failing(self, *, of_the_job: bool = True) -> tuple[str, ...]:
        """Nodes that failed twice in this run; of this job's, or all."""
        failing = self.records.failing_nodes()
        return tuple(node for node in failing if node in self.place.nodes or not of_the_job)

    def _newest_checkpoint(self) -> int:
        """Its step; -1 where there is none."""
        folder = newest(self.orders.run_dir)
        return -1 if folder is None else step_of(folder)

    def _barrier(self, number: int) -> NodeBarrier:
        return NodeBarrier(self.records.meetings, self.place.job, self.place.requeues, number)

    def _wait(self, there: Callable[[], bool], seconds: float, state: str, *, through_stop: bool = False) -> bool:
        """Whether it came about in time; a stop ends the wait, unless it is asked to last."""
        until = time.monotonic() + seconds
        while not there():
            if time.monotonic() > until or (self.stop.signal is not None and not through_stop):
                return False
            self._tick(state)
            time.sleep(WAIT_SECONDS)
        return True

    def _tick(self, state: str) -> None:
        """Every few seconds: a beat, and a look whether the run has been started anew without this node.

        Raises:
            Superseded: it has.
        """
        if time.monotonic() - self._beat_at < BEAT_SECONDS:
            return
        newest = max(self.records.attempts(), key=lambda attempt: attempt.number, default=None)
        if newest is not None and newest.number > self._newest > 0 and self.trains:
            raise Superseded(f"attempt {newest.number} began in job {newest.job}: this node was cut off, and ends")
        self._beat(state)

    def _beat(self, state: str) -> None:
        self._beat_at = time.monotonic()
        if self.trains:
            try:
                self.records.beat(self.place.node, job=self.place.job, requeues=self.place.requeues, state=state)
            except OSError as error:  # a full disk: the run itself says so
                self._say(f"no beat: {error}")

    def _note(self, line: str) -> None:
        """For the log, and for MLflow by way of the next start's tracker."""
        self._say(line)
        try:
            record = MlflowRecord.read(self.orders.run_dir)
            record.add_event(line)
            record.write(self.orders.run_dir)
        except (UserError, OSError):
            return  # before the first start, or on a full disk

    def _say(self, line: str) -> None:
        print(one_line(f"eyespot: {self.place.node}: {line}"), file=sys.stderr, flush=True)
