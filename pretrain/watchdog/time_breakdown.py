"""Where the time of a run went: reading data, forward, backward, exchanges, optimiser, checkpoints."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

PARTS = ("data", "forward", "backward", "communication", "optimiser", "checkpoint", "other")
"""Each is logged as ``time_share/<part>``; together they are 1."""
_OF_PLACE = {"reading data": "data", "optimiser": "optimiser", "saving": "checkpoint"}
_PASSES = "forward and backward"


class TimeShares:
    """Shares of this process's wall-clock time between two logged steps.

    On a CPU, "communication" is the time inside forward and backward in which the main thread neither ran nor waited
    for a core: there it sleeps until the other ranks have answered. On a GPU exchanges overlap with computing and
    cannot be told apart from outside: they are part of forward and backward. Their border is a CUDA event in the
    interval's last micro-batch.

    Args:
        device: of this process.
        own_seconds: a clock of this process's own work; None where there is nobody that it could wait for.
    """

    def __init__(self, device: torch.device, own_seconds: Callable[[], float] | None) -> None:
        self._alone, self._clock = own_seconds is None, own_seconds or time.monotonic
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._passes_began, self._own, self._forward_began, self._forward, self._num_forward = 0.0, 0.0, 0.0, 0.0, 0
        self._events: list[torch.cuda.Event] | None = None
        if device.type == "cuda":
            # External: they may be captured in a CUDA graph, whose forward passes then count as backward passes.
            self._events = [torch.cuda.Event(enable_timing=True, external=True) for _ in range(2)]

    def time_forward(self, objective: nn.Module) -> None:
        """Measures the objective's forward passes from now on."""
        objective.register_forward_pre_hook(self._begin_forward)
        objective.register_forward_hook(self._end_forward)

    def begin_passes(self) -> None:
        """Forward and backward of a micro-batch begin."""
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
        seconds, forward, own = self._seconds, self._forward, self._own
        if self._events is not None:
            forward = self._seconds_on_gpu() * self._num_forward
        if self._alone or self._events is not None:
            own = seconds["backward"]
        seconds["communication"] = max(0.0, seconds["backward"] - own)
        seconds["forward"] = min(forward, own)
        seconds["backward"] = max(0.0, own - forward)
        total = max(1e-9, sum(seconds.values()))
        shares = {f"time_share/{part}": round(seconds[part] / total, 5) for part in PARTS}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._own, self._forward, self._num_forward = 0.0, 0.0, 0
        return shares

    def _begin_forward(self, *_: Any) -> None:
        if self._events is not None:
            self._events[0].record()
        self._forward_began = self._clock()

    def _end_forward(self, *_: Any) -> None:
        if self._events is not None:
            self._events[1].record()
        self._forward += self._clock() - self._forward_began
        self._num_forward += 1

    def _seconds_on_gpu(self) -> float:
        """Of the last forward pass."""
        if self._events is None or not self._num_forward:
            return 0.0
        begin, end = self._events
        end.synchronize()
        return begin.elapsed_time(end) / 1000
