"""One start of a node's ranks, from their first breath to their last."""

import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

from eyespot.cluster.processes import Ranks
from eyespot.cluster.supervisor.diagnosis import Report
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.terminal import one_line

POLL_SECONDS = 0.2
GRACE_SECONDS = 60.0
"""For the other ranks to end by themselves once one has failed: they find out in seconds (``rank_watch.py``)."""
STOP_SECONDS = 600.0
"""For ranks that were asked to stop, if SLURM does not kill them before."""
AGAIN_SECONDS = 2.0
SAY_SECONDS = 30.0


class StopRequest:
    """SIGTERM and SIGUSR1 ask for a stop: preemption, cancellation, requeue, the approach of the time limit.

    SLURM sends them to every process of a step. submitit's own handlers, which talk and requeue, are replaced.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)
        for number in (signal.SIGCONT, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = signal.Signals(number)


class RankShift:
    """Watches running ranks until the last has ended: passes stops on, ends those that do not end.

    Args:
        ranks: of this node.
        node: its name.
        stop: the supervisor's.
        saves: whether the ranks save when they are asked to stop; others are killed then.
        logs: the folder of the ranks' logs.
        peers_failed: whether a rank of another node has failed.
        tick: called often, with what goes on.
    """

    def __init__(
        self,
        ranks: Ranks,
        node: str,
        stop: StopRequest,
        *,
        saves: bool,
        logs: Path,
        peers_failed: Callable[[], bool],
        tick: Callable[[str], None],
    ) -> None:
        self._ranks, self._node, self._stop, self._saves, self._logs = ranks, node, stop, saves, logs
        self._peers_failed, self._tick = peers_failed, tick
        self._failed_at: float | None = None
        self._asked_at: float | None = None
        self._sent_at = self._said_at = 0.0
        self._killed: list[int] = []

    def watch(self) -> Report:
        """Returns when all have ended."""
        while None in self._ranks.poll():
            self._tick("the ranks run" if self._stop.signal is None else "stopping: the ranks save")
            now = time.monotonic()
            if self._stop.signal is not None:
                self._pass_on(self._stop.signal, now)
            if self._failed_at is None and (self._has_failed() or self._peers_failed()):
                self._failed_at = now
            if self._failed_at is not None and now - self._failed_at > GRACE_SECONDS:
                self._kill(f"{GRACE_SECONDS:.0f} s after another failed")
            time.sleep(POLL_SECONDS)
        words = tuple(self._ranks.words())
        return Report(node=self._node, codes=tuple(self._ranks.poll()), words=words, killed=tuple(self._killed))

    def _has_failed(self) -> bool:
        return any(code not in (None, ExitCode.DONE, ExitCode.STOPPED) for code in self._ranks.poll())

    def _pass_on(self, number: signal.Signals, now: float) -> None:
        """Again and again: a rank that still imports torch ignores it."""
        if not self._saves:
            return self._kill("it does not save")
        if self._asked_at is None:
            self._asked_at = self._said_at = now
            self._say(f"{number.name}: the ranks are asked to save and stop")
        if now - self._sent_at > AGAIN_SECONDS:
            self._sent_at = now
            self._ranks.send(number)
        if now - self._said_at > SAY_SECONDS:
            self._said_at = now
            for rank in self._running():
                self._say(f"rank {rank} has not stopped for {now - self._asked_at:.0f} s, {self._last_line(rank)}")
        if now - self._asked_at > STOP_SECONDS:
            self._kill(f"{STOP_SECONDS:.0f} s after they were asked to stop")
        return None

    def _kill(self, why: str) -> None:
        running = self._running()
        self._killed += [rank for rank in running if rank not in self._killed]
        for rank in running:
            self._say(f"rank {rank} is killed, {why}, {self._last_line(rank)}")
        self._ranks.kill()

    def _running(self) -> list[int]:
        return [self._ranks.first + local for local, code in enumerate(self._ranks.poll()) if code is None]

    def _last_line(self, rank: int) -> str:
        path = self._logs / f"rank-{rank}.log"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                return f"its log ends: {file.read().decode(errors='replace').splitlines()[-1]}"
        except (OSError, IndexError):
            return "it has no log yet"

    def _say(self, line: str) -> None:
        print(one_line(f"eyespot: {self._node}: {line}"), file=sys.stderr, flush=True)
