"""Signals that ask a run to stop: they set a flag, the loop saves and ends at a whole step."""

import logging
import os
import signal
import threading
import time
import types
from collections.abc import Callable

from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.pretrain.distributed.collectives import any_rank_later, num_ranks

log = logging.getLogger("eyespot")

SAME_SECONDS = 1.0
"""A Ctrl-C that comes sooner after the first is the same one: launchers pass on what the terminal has sent already."""
END_SECONDS = 5.0
"""For a second Ctrl-C to end the run in good order; a process that waits in C code for others is ended then."""


class StopSignals:
    """While it is open, SIGTERM, SIGUSR1 and the first Ctrl-C ask for a stop instead of killing.

    SLURM sends SIGTERM on preemption and cancellation, often and to every process; submitit asks for SIGUSR1 shortly
    before the time limit. A second Ctrl-C, of a person who does not want to wait, ends the run as it is. Python's own
    handlers wait until a call into C code is over, so a thread says at once that the signal has come.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: str | None = None
        self._interrupted_at: float | None = None
        self._heard, speaker = os.pipe()
        os.set_blocking(speaker, False)
        self._speaker = speaker
        self._previous_speaker = signal.set_wakeup_fd(speaker, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted_at is not None and now - self._interrupted_at >= SAME_SECONDS:
                raise KeyboardInterrupt  # asked twice: do not wait for the step to end
            self._interrupted_at = self._interrupted_at or now
        self.received = signal.Signals(number).name

    def _listen(self) -> None:
        """Speaks as rank 0; ends the process whose main thread hears nothing any more."""
        first: dict[int, float] = {}
        said = False
        while numbers := os.read(self._heard, 64):
            for number in numbers:
                again = time.monotonic() - first.setdefault(number, time.monotonic()) >= SAME_SECONDS
                if number in self.SIGNALS and not said and int(os.environ.get("RANK", 0)) == 0:
                    said = True
                    log.warning(
                        "%s: the run saves a checkpoint and stops as soon as this step is done, or this micro-batch of"
                        " several; a second Ctrl-C ends it now, and what is not saved is lost",
                        signal.Signals(number).name,
                    )
                if number == signal.SIGINT and again:
                    threading.Thread(target=self._end, name="end", daemon=True).start()
        os.close(self._heard)

    def _end(self) -> None:
        time.sleep(END_SECONDS)
        if self._previous:
            os._exit(ExitCode.FAILED)

    def close(self) -> None:
        """Restores the handlers that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_speaker)
        self._previous = {}
        os.close(self._speaker)


class StopVote:
    """Whether any rank is asked to stop, or has lost its run folder: the ranks act on it at the same look.

    Each look begins a reduction of 8 bytes and answers with what the one before came to, so that no rank waits for
    another: a step, or a micro-batch of several, goes by before all know what one knows. A process alone knows at once.

    Args:
        signals: this rank's.
    """

    def __init__(self, signals: StopSignals) -> None:
        self._signals, self._lost = signals, False
        self._begun: Callable[[], list[bool]] = lambda: [False, False]

    def look(self, *, lost: bool = False, at_once: bool = False) -> tuple[bool, bool]:
        """(stop?, lost?). Every rank calls it at the same places, with the same ``at_once``.

        Args:
            lost: this rank has lost its run folder; it need not say so twice.
            at_once: wait for the ranks, because something is written down now.
        """
        self._lost |= lost
        before, self._begun = self._begun, any_rank_later([self._signals.received is not None, self._lost])
        stop, anywhere_lost = self._begun() if at_once or num_ranks() == 1 else before()
        return stop, anywhere_lost
