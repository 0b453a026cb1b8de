"""Where the time of a run went: reading data, forward, backward, exchanges, optimiser, checkpoints."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from eyespot.pretrain.watchdog.pass_timer import PassTimer

PARTS = ("data", "forward", "backward", "communication", "optimiser", "checkpoint", "other")
"""Each is logged as ``time_share/<part>``; together they are 1."""
UNDIVIDED = "passes"
"""Stands in for forward and backward where nobody knows their border."""
_OF_PLACE = {"reading data": "data", "optimiser": "optimiser", "saving": "checkpoint"}
_PASSES = "forward and backward"


class TimeShares:
    """Shares of this process's wall-clock time between two logged steps.

    On a CPU, "communication" is the time inside forward and backward in which the main thread neither ran nor waited
    for a core: there it sleeps until the other ranks have answered. On a GPU exchanges overlap with computing and
    cannot be told apart from outside: they are part of forward and backward. How much of both is forward, CUDA events
    say of one pass of the interval, or of the one before where the device has not got so far.

    Args:
        device: of this process.
        own_seconds: a clock of this process's own work; None where there is nobody that it could wait for.
    """

    def __init__(self, device: torch.device, own_seconds: Callable[[], float] | None) -> None:
        self._alone, self._clock = own_seconds is None, own_seconds or time.monotonic
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._passes_began, self._own, self._forward_began, self._forward, self._num_forward = 0.0, 0.0, 0.0, 0.0, 0
        self._is_timed, self._timer = False, PassTimer() if device.type == "cuda" else None

    def time_forward(self, objective: nn.Module) -> None:
        """Measures the objective's forward passes from now on; else their border with backward passes is unknown."""
        self._is_timed = True
        objective.register_forward_pre_hook(self._begin_forward)
        objective.register_forward_hook(self._end_forward)

    def begin_passes(self) -> None:
        """Forward and backward of a micro-batch begin."""
        if self._timer is not None:
            self._timer.allow()
        self._passes_began = self._clock()

    def leave(self, place: str, seconds: float) -> None:
        """So long the main thread was at this place (`rank_watch.Place`)."""
        if place == _PASSES:
            self._own += self._clock() - self._passes_began
            self._seconds["backward"] += seconds  # what of it was not, is taken off at the end
        elif place != "starting":
            self._seconds[_OF_PLACE.get(place, "other")] += seconds

    def close_interval(self) -> dict[str, float]:
        """{"time_share/data": 0..1, ...} since the last call."""
        seconds, forward = self._seconds, self._forward_seconds()
        passes = seconds["backward"]
        own = passes if self._alone or self._timer is not None else self._own
        seconds["communication"] = max(0.0, passes - own)
        if forward is None:
            del seconds["forward"], seconds["backward"]
            seconds[UNDIVIDED] = own
        else:
            seconds["forward"] = min(forward, own)
            seconds["backward"] = max(0.0, own - forward)
        total = max(1e-9, sum(seconds.values()))
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._own, self._forward, self._num_forward = 0.0, 0.0, 0
        return {f"time_share/{part}": round(value / total, 5) for part, value in seconds.items()}

    def _begin_forward(self, *_: Any) -> None:
        if self._timer is not None:
            self._timer.begin()
        self._forward_began = self._clock()

    def _end_forward(self, *_: Any) -> None:
        if self._timer is not None:
            self._timer.end()
        self._forward += self._clock() - self._forward_began
        self._num_forward += 1

    def _forward_seconds(self) -> float | None:
        """Of all forward passes of the interval; None where nobody knows."""
        if not self._is_timed or self._timer is None:
            return self._forward if self._is_timed else None
        one = self._timer.seconds()
        return None if one is None else one * self._num_forward
