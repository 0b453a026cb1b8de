"""Signals that ask a run to stop: they set a flag, the loop saves and ends at a whole step."""

import signal
import types


class StopSignals:
    """While it is open, SIGTERM, SIGUSR1 and the first Ctrl-C ask for a stop instead of killing.

    SLURM sends SIGTERM on preemption and cancellation; submitit asks for SIGUSR1 shortly before the time limit.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if number == signal.SIGINT and self.received == "SIGINT":
            raise KeyboardInterrupt  # asked twice: do not wait for the step to end
        self.received = signal.Signals(number).name

    def close(self) -> None:
        """Restores the handlers that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
