"""How long a GPU takes for a pass through some modules, by two CUDA events that no host waits for."""

from typing import Literal

import torch


class PassTimer:
    """Times one pass after each ``allow``, unless the device is still busy with the one before.

    Other passes change nothing: those of a monitor, nor of blocks that activation checkpointing computes once more in
    the backward pass, from the last to the first.
    """

    def __init__(self) -> None:
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._stage: Literal["idle", "allowed", "begun", "on its way"] = "idle"
        self._seconds: float | None = None

    def allow(self) -> None:
        """The next pass may be timed."""
        self.seconds()
        if self._stage != "on its way":
            self._stage = "allowed"

    def begin(self) -> None:
        """A pass begins here in the device's queue."""
        if self._stage == "allowed":
            self._begin.record()
            self._stage = "begun"

    def end(self) -> None:
        """And here it is over."""
        if self._stage == "begun":
            self._end.record()
            self._stage = "on its way"

    def seconds(self) -> float | None:
        """Of the newest pass that the device is known to have done; None before the first."""
        if self._stage == "on its way" and self._end.query():
            self._seconds, self._stage = self._begin.elapsed_time(self._end) / 1000, "idle"
        return self._seconds
