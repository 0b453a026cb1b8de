"""Doorbell: does a signal that SLURM sends to the job reach this node?"""

import signal
import subprocess
import threading
import time
import types

from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Finding

BELL = signal.SIGUSR2
"""Stops nothing: stops come as USR1 and TERM."""
SECONDS = 5.0


class Doorbell:
    """Listens from the moment it is made; afterwards the signal is ignored, by this process and those it starts.

    So a late ring kills nothing. In a thread other than the first nothing can listen, and nothing is found.
    """

    def __init__(self) -> None:
        self._rang = threading.Event()
        self.listens = threading.current_thread() is threading.main_thread()
        if self.listens:
            signal.signal(BELL, self._ring)

    def _ring(self, number: int, frame: types.FrameType | None) -> None:
        self._rang.set()

    def wait(self, seconds: float) -> float | None:
        """Seconds until it rang; None = it did not."""
        begin = time.monotonic()
        while not self._rang.is_set() and time.monotonic() < begin + seconds:
            time.sleep(0.01)  # a handler runs between two instructions of the first thread
        if self.listens:
            signal.signal(BELL, signal.SIG_IGN)
        return time.monotonic() - begin if self._rang.is_set() else None


def ring(job: str) -> str:
    """Has SLURM send the signal to every process of the job's steps. Returns why it could not; empty = it did."""
    try:
        done = subprocess.run(
            ["scancel", f"--signal={BELL.name.removeprefix('SIG')}", job],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"scancel cannot be run here ({error})"
    return " ".join(done.stderr.split()) if done.returncode else ""


def signal_finding(context: CheckContext, bell: Doorbell | None, why_not: str | None) -> Finding:
    """What came of it.

    Args:
        context: of this node.
        bell: of this node; None = nobody listens.
        why_not: what ``ring`` returned on the first node; None = nobody rang.
    """
    if why_not is None or bell is None or not bell.listens:
        return context.ok("signals", "not tried: SLURM sends them to jobs only")
    if why_not:
        return context.warn(
            "signals",
            why_not,
            "the run cannot ask SLURM for anything, such as a requeue: make SLURM's commands reachable in the job",
        )
    seconds = bell.wait(SECONDS)
    if seconds is None:
        return context.fail(
            "signals",
            f"a signal to the job did not arrive within {SECONDS:.0f} s",
            "a stop would come without warning: look at slurmd's log, and for a wrapper that keeps signals to itself",
        )
    return context.ok("signals", f"delivered {seconds:.1f} s after the meeting")
