"""What the ranks know of each other: which one died, hangs or is slow, said in one line by all that are left.

Each process has a thread that posts a beat per second into torch's store: which step, what the main thread does, where
in the code. The store is hosted by torchrun's agent, which outlives every rank, or by rank 0 under other launchers.

- A killed rank shows in the others' next exchange (gloo: at once), a hung one at the process group's timeout. That
  error tells little; a survivor then compares the beats and declares who is to blame: whoever is silent, else whoever
  did not come back from its work, else the network. The first declaration holds for all.
- A rank that fails by itself declares its own exception, so that the others name the cause and not its echo.
- Every rank also listens to the next one, for what no exchange shows: a main thread that waits in a GPU kernel for a
  rank that is gone.
- Once it is declared, each process has ``GRACE_SECONDS`` to end by itself; then its thread ends it with exit code 1.
"""

import logging
import os
import re
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

import torch.distributed as dist

from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.terminal import one_line
from eyespot.pretrain.distributed.exit_report import leave_words
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.watchdog.gpu_health import GpuHealth, GpuWatch
from eyespot.pretrain.watchdog.heartbeats import (
    STORE_SECONDS,
    Beat,
    Board,
    Cause,
    Finding,
    RankProcess,
    State,
    find_culprits,
    furthest_behind,
    position,
    process_state,
)
from eyespot.pretrain.watchdog.stragglers import OwnWork, Stragglers, gather_own_work
from eyespot.pretrain.watchdog.time_breakdown import TimeShares

log = logging.getLogger("eyespot")

Place = Literal[
    "starting", "reading data", "forward and backward", "optimiser", "logging", "monitor", "refresh", "saving"
]

BEAT_SECONDS = 1.0
SETTLE_SECONDS = 3.0
"""A rank that does not beat for so long, once an exchange has failed, is silent."""
GRACE_SECONDS = 20.0
"""For a process to end by itself: MLflow's last chance is 15 s, torchrun kills after 30 s."""
STALL_SECONDS = 30.0
"""Without progress, and ten median steps, before the log says so."""
SLOW_PLACES = ("monitor", "refresh", "saving", "logging")
"""Ten times as long may pass here."""

_EXCHANGE_ERROR = re.compile(
    r"gloo|nccl|ProcessGroup|TCPStore|Connection (closed|reset|refused)|pair closure", re.IGNORECASE
)
_FINDINGS: dict[Finding, str] = {
    "died": "died",
    "stopped": "is stopped (SIGSTOP)",
    "silent": "does not answer (dead, frozen or cut off)",
    "stuck": "is stuck",
}


class RankFailure(RuntimeError):
    """Another rank ended the run; the message is one line and has been said at the terminal.

    Attributes:
        ranks: who is to blame; none where it was the network.
    """

    def __init__(self, line: str, ranks: Sequence[int]) -> None:
        super().__init__(line)
        self.ranks = ranks


class RankWatch:
    """Made on every rank once logging works; a context manager around the rest of the process's work for the run.

    Args:
        world: this process among the run's.
        logs: the folder of the ranks' logs.
        timeout_seconds: a rank that does not beat for longer ends the run.

    Attributes:
        num_beats: that this rank has posted.
        on_event: called on rank 0 with one line about a stall (by the watch's thread) or a slow rank (by the main one).
    """

    def __init__(self, world: World, logs: Path, timeout_seconds: float) -> None:
        self._world, self._logs, self._timeout = world, logs, timeout_seconds
        self.on_event: Callable[[str], None] = lambda line: None
        self._main = threading.get_ident()
        self._spot: tuple[int, Place, int, float] = (0, "starting", 0, time.monotonic())  # replaced whole: no lock
        self.num_beats = 0
        self._step_begun: float | None = None
        self._step_seconds = deque[float](maxlen=101)
        self._board = Board(world, self._beat("running")) if world.size > 1 else None
        self._members = self._board.members if self._board else [RankProcess.this(0)]
        self._work, self._stragglers = OwnWork(world.device), Stragglers([str(member) for member in self._members])
        self._shares = TimeShares(world.device, self._work.processor_seconds if world.size > 1 else None)
        self._gpus = GpuWatch(GpuHealth.of(world.device), [str(member) for member in self._members])
        self._own_error: tuple[bool, str] | None = None  # (an exchange's?, one line)
        self._cause: Cause | None = None
        self._known, self._leaving, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._next, self._heard = (world.rank + 1) % world.size, (0, time.monotonic())
        self._stall: tuple[int, float, bool] = (0, time.monotonic(), False)  # (ticks, since, said)
        self._lost_since: float | None = None
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self._thread.start()

    # What the main thread calls.

    def at(self, place: Place, step: int | None = None) -> float:
        """Notes what the main thread does from now on, in which step: seconds that it spent with what it did before."""
        old_step, old_place, ticks, since = self._spot
        now = time.monotonic()
        self._shares.leave(old_place, now - since)
        if old_place == "forward and backward":
            self._work.end_compute()
        elif old_place == "reading data":
            self._work.waited_for_data(now - since)
        if step is not None and step != old_step:
            if self._step_begun is not None:
                self._step_seconds.append(now - self._step_begun)
            self._step_begun = now
            self._work.begin_step()
        self._spot = (old_step if step is None else step, place, ticks + 1, now)
        if place == "forward and backward":
            self._work.begin_compute()
            self._shares.begin_passes()
        return now - since

    def time_forward(self, objective: Objective) -> None:
        """Measures its forward passes; on a GPU, those of its encoder are what ranks are compared by."""
        self._work.time_forward(objective.encoder)
        self._shares.time_forward(objective)

    def close_interval(self) -> dict[str, float]:
        """On all ranks, at logged steps, metrics: where this one's time went, and how long the own work of all took.

        A slow rank is named in the log, and one whose GPU is slowed down or has memory errors.
        """
        shares, (metrics, lines) = self._shares.close_interval(), self._gpus.close_interval()
        if self._world.size > 1:
            work, slow = self._stragglers.judge(gather_own_work(self._work.close_interval()))
            metrics, lines = {**work, **metrics}, [*slow, *lines]
        for line in lines if self._world.rank == 0 else ():
            self._say(line)
        return {**metrics, **shares}

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Around what may fail: an error that another rank caused becomes a RankFailure that names it.

        Raises:
            RankFailure: another rank died, failed or hangs.
        """
        try:
            yield
        except BaseException as error:
            self._explain(error)
            raise

    def __enter__(self) -> "RankWatch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the run; the thread stays only to end a process that does not end by itself."""
        try:
            if error is not None:
                self._explain(error)
        finally:
            self._leaving.set()
            self._wake.set()
            if self._cause is None:
                self._thread.join(STORE_SECONDS + BEAT_SECONDS)  # not to be cut off in a call of the store
            elif self._world.rank == 0 and not _launcher_hosts_store():
                time.sleep(2 * BEAT_SECONDS)  # the store ends with this process: first let all read the cause
            self._work.close()
            self._gpus.health.close()

    def _explain(self, error: BaseException) -> None:
        """Tells the others of an error that is this rank's own; raises RankFailure for one that another rank caused."""
        if self._board is None or isinstance(error, RankFailure):
            return
        echo = _is_exchange_error(error)
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        self._own_error = (echo, text)
        self._wake.set()
        # The thread beats while it judges. One that stands still is in a call of a store that never returns.
        while not self._known.wait(0.1) and time.monotonic() - self._beat_at < STORE_SECONDS:
            pass
        if echo:
            cause = self._cause or self._store_is_gone()
            self._speak(cause)
            raise RankFailure(cause.line, cause.ranks) from error

    def _speak(self, cause: Cause) -> None:
        """The lowest rank that is not to blame tells the terminal."""
        if self._world.rank == min((r for r in range(self._world.size) if r not in cause.ranks), default=0):
            sys.stderr.write(f"\n{one_line(masked(f'eyespot: {cause.line}'))}\n")
            sys.stderr.flush()

    def _say(self, line: str) -> None:
        log.warning("%s", line)
        self.on_event(line)

    # What the thread does.

    def _watch(self) -> None:
        while not self._leaving.is_set():
            try:
                self._round()
                self._lost_since = None
            except RuntimeError:  # of the store; training goes on without it, for a while
                self._lost_since = self._lost_since or time.monotonic()
                if self._own_error is not None or time.monotonic() - self._lost_since > self._timeout:
                    self._cause = self._store_is_gone()
            if self._cause is not None:
                self._known.set()
                return self._end_process(self._cause)
            self._wake.wait(BEAT_SECONDS)
            self._wake.clear()
        if self._board is not None:
            try:
                self._board.post(self._beat("ended"))
            except RuntimeError:
                return  # the one who hosts the store has left before
        return None

    def _round(self) -> None:
        """Once a second: say where this rank is, hear how the others are."""
        if self._board is not None:
            self._board.post(self._beat("running" if self._own_error is None else "failed"))
            self._cause = self._board.cause()
            if self._cause is not None:
                return
            if self._own_error is not None:
                echo, text = self._own_error
                self._cause = self._judge(self._board, text) if echo else self._declare_own(self._board, text)
            else:
                self._listen(self._board)
        if self._world.rank == 0:
            self._watch_progress()
        self._gpus.health.look()

    def _declare_own(self, board: Board, text: str) -> Cause:
        step, place, _, _ = self._spot
        rank = self._world.rank
        line = f"{self._members[rank]} failed at step {step}, {place}: {text}; its log: {self._log_of(rank)}"
        return board.declare(Cause(ranks=[rank], line=line))

    def _listen(self, board: Board) -> None:
        """The next rank: gone, or silent for too long?"""
        (beat,), now = board.beats([self._next]), time.monotonic()
        number, since = self._heard
        if beat.number != number or beat.state == "ended":
            self._heard = (beat.number, now)
        elif now - since > self._timeout or (now - since > 2 * BEAT_SECONDS and self._process(self._next) == "died"):
            finding = self._process(self._next) or "silent"
            self._cause = board.declare(self._cause_of(finding, [self._next], board.beats()))

    def _judge(self, board: Board, error: str) -> Cause:
        """Who is to blame for an exchange that failed; one survivor finds out, the others wait for its word."""
        judges = board.claim("judge")
        while True:
            before, until = board.beats(), time.monotonic() + SETTLE_SECONDS * (1 if judges else 2)
            processes: list[Finding | None] = [None] * self._world.size
            while time.monotonic() < until and "died" not in processes:
                time.sleep(BEAT_SECONDS / 4)
                board.post(self._beat("failed"))
                if cause := board.cause():
                    return cause
                if judges:
                    processes = [self._process(rank) for rank in range(self._world.size)]
            if judges:
                after = board.beats()
                return board.declare(self._cause_of(*find_culprits(before, after, processes), after, error))
            judges = True  # the judge has died as well

    def _cause_of(self, finding: Finding, ranks: list[int], beats: list[Beat], error: str = "") -> Cause:
        if not ranks:
            return Cause(ranks=[], line=f"the network between the ranks failed, all of them still run: {error}")
        rank = ranks[0]
        beat = beats[rank]
        others = f" (and so are ranks {_listed(ranks[1:])})" if len(ranks) > 1 else ""
        ago = max(0.0, time.time() - beat.clock)
        since = f"for {beat.seconds:.0f} s" if finding == "stuck" else f"last heard of {ago:.1f} s ago"
        line = f"{self._members[rank]} {_FINDINGS[finding]}{others} at {beat}, {since}; its log: {self._log_of(rank)}"
        return Cause(ranks=ranks, line=line)

    def _store_is_gone(self) -> Cause:
        """Without the store all that is known is who hosted it."""
        if _launcher_hosts_store():
            return Cause(ranks=[], line=f"the launcher on {os.environ['MASTER_ADDR']} does not answer any more")
        finding = _FINDINGS[self._process(0) or "silent"]
        return Cause(ranks=[0], line=f"{self._members[0]} {finding}; its log: {self._log_of(0)}")

    def _watch_progress(self) -> None:
        """No rank gets far without rank 0, so its own standstill is everybody's."""
        (step, _, ticks, _), now = self._spot, time.monotonic()
        known, since, said = self._stall
        if ticks != known:
            if said:
                self._say(f"going on after {now - since:.0f} s")
            self._stall = (ticks, now, False)
            return
        if said or now - since <= STALL_SECONDS or not self._step_seconds:
            return
        limit = max(STALL_SECONDS, 10 * statistics.median(self._step_seconds))
        beats = self._board.beats() if self._board else [self._beat("running")]
        behind = furthest_behind(beats, range(len(beats)))
        beat = beats[behind[0]]
        if now - since > limit * (10 if beat.place in SLOW_PLACES else 1):
            self._stall = (ticks, since, True)
            more = f" and ranks {_listed(behind[1:])}" if behind[1:] else ""
            self._say(f"no progress for {now - since:.0f} s at step {step}: {self._members[behind[0]]}{more} at {beat}")

    def _end_process(self, cause: Cause) -> None:
        """The run is over: ends this process where its main thread does not do so."""
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until:
            if self._leaving.is_set() and not dist.is_initialized():
                return
            time.sleep(0.1)
        if not self._leaving.is_set():
            self._speak(cause)
        log.error("stopped: %s; this process did not end by itself", cause.line, extra={"file_only": True})
        for handler in log.handlers:
            handler.flush()
        leave_words("another rank", cause.line, cause.ranks)
        os._exit(ExitCode.FAILED)

    def _beat(self, state: State) -> Beat:
        step, place, ticks, since = self._spot
        self.num_beats, self._beat_at = self.num_beats + 1, time.monotonic()
        waits, code = position(self._main)
        return Beat(
            number=self.num_beats,
            state=state,
            ticks=ticks,
            waits=waits,
            step=step,
            place=place,
            code=code,
            seconds=round(time.monotonic() - since, 1),
            clock=time.time(),
        )

    def _process(self, rank: int) -> Finding | None:
        return process_state(self._members[rank], self._members[self._world.rank])

    def _log_of(self, rank: int) -> Path:
        return self._logs / f"rank-{rank}.log"


def _launcher_hosts_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _is_exchange_error(error: BaseException) -> bool:
    """Whether it, or what it was raised from, tells of another rank: gloo raises bare RuntimeErrors."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, dist.DistError) or (isinstance(link, RuntimeError) and _EXCHANGE_ERROR.search(str(link))):
            return True
        link = link.__cause__
    return False


def _listed(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"
