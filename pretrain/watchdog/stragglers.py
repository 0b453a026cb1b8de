"""Which rank is slower than the others, and with what: its data or its computing."""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from eyespot.pretrain.distributed.collectives import all_gather, group_name
from eyespot.pretrain.networks.repeated_blocks import repeated_blocks
from eyespot.pretrain.watchdog.pass_timer import PassTimer

FACTOR = 1.5
"""A rank is slow when its own work takes this many times the median."""
MARGIN_SECONDS = 0.005
"""And at least so much longer per step: at small steps the factor alone is noise."""
INTERVALS = 3
"""For so many logged intervals in a row."""


class OwnWork:
    """Seconds per step that this rank works for itself, as opposed to waiting for other ranks.

    The wall clock cannot tell: a step ends for all ranks at once, and the exchanges in which the fast wait for the slow
    lie inside forward (batch norm, embeddings) and backward (gradients). So two things are measured that hold none:

    - data: wall time of waiting for the next micro-batch.
    - compute, on a CPU: processor time of the main thread in forward and backward, plus the time it was ready to run
      and another process had the core. An exchange sleeps and counts for nothing, in any engine. It does not see what
      sleeps without computing (a page that is read from disk), nor waits for the intra-op threads that do not spin.
    - compute, on a GPU: CUDA events around the encoder's blocks, in the newest training pass that is known to be done;
      0 before there is one. Exact where that pass holds no exchange (transformers under DDP and ZeRO-1/2); where it
      holds one (FSDP, ZeRO-3, batch norm over ranks) the fast ranks wait inside it and the difference is levelled: then
      only data is told apart.
    """

    def __init__(self, device: torch.device) -> None:
        self._timer = PassTimer() if device.type == "cuda" else None
        self._queue_file = _open_schedstat()
        self._begun = 0.0
        self._data, self._compute, self._steps = 0.0, 0.0, 0

    def time_forward(self, encoder: nn.Module) -> None:
        """On a GPU: measures passes through this encoder's blocks. Two event records per micro-batch, no waiting.

        Through its blocks, because nobody calls the encoder as a whole: heads want its features, MAE some patches.
        """
        blocks = repeated_blocks(encoder)
        if self._timer is not None and blocks:
            around(blocks[0], blocks[-1], self._timer.begin, self._timer.end)

    def waited_for_data(self, seconds: float) -> None:
        """So long it took until the next micro-batch was there."""
        self._data += seconds

    def begin_compute(self) -> None:
        """Forward and backward of a micro-batch begin."""
        if self._timer is not None:
            self._timer.allow()
        self._begun = self.processor_seconds()

    def end_compute(self) -> None:
        """They are over."""
        self._compute += self.processor_seconds() - self._begun

    def begin_step(self) -> None:
        """What follows belongs to one more step."""
        self._steps += 1

    def close_interval(self) -> tuple[float, float]:
        """(data, compute) in seconds per step since the last call."""
        steps = max(1, self._steps)
        data, compute = self._data / steps, self._compute / steps
        if self._timer is not None:
            compute = self._timer.seconds() or 0.0
        self._data, self._compute, self._steps = 0.0, 0.0, 0
        return data, compute

    def processor_seconds(self) -> float:
        """A clock: seconds of this thread running, or ready to run and kept from it."""
        waited = 0.0
        if self._queue_file is not None:
            waited = int(os.pread(self._queue_file, 100, 0).split()[1]) / 1e9
        return time.thread_time() + waited

    def close(self) -> None:
        """Closes the file of the scheduler's figures."""
        if self._queue_file is not None:
            os.close(self._queue_file)
            self._queue_file = None


def around(first: nn.Module, last: nn.Module, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Calls ``begin`` before each pass of ``first`` and ``end`` after each of ``last``; never from compiled code.

    Hooks are part of what ``Module.compile`` compiles, and no compiler knows what an event's record is.
    """
    if getattr(first, "_compiled_call_impl", None) is not None:
        begin, end = (cast(Any, torch.compiler.disable(hook)) for hook in (begin, end))
    first.register_forward_pre_hook(lambda *_: begin())
    last.register_forward_hook(lambda *_: end())


def _open_schedstat() -> int | None:
    """The scheduler's figures of this thread: nanoseconds run, nanoseconds ready and waiting, slices."""
    path = Path("/proc/thread-self/schedstat")
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


class Stragglers:
    """Compares the ranks' own work at logged steps, and names a rank once when it has become slow.

    The middle is the lower median: of two ranks the faster, so that one of two can be slow too.

    Args:
        names: of the ranks.
        quiet_seconds: what is said of a rank is followed by nothing else of it for so long, however it comes and goes.
    """

    def __init__(self, names: Sequence[str], quiet_seconds: float = 60.0) -> None:
        self._names, self._quiet_seconds = names, quiet_seconds
        self._said_slow = [False] * len(names)
        self._said_at = [-math.inf] * len(names)
        self._in_a_row = [0] * len(names)

    def judge(self, rows: Tensor) -> tuple[dict[str, float], list[str]]:
        """What to log and what to say.

        Args:
            rows: (ranks, 2) seconds per step of data and compute.

        Returns:
            The metrics ``rank_seconds_median``, ``rank_seconds_max`` and ``slowest_rank``, and one line for each rank
            that has just become slow or is no longer.
        """
        seconds = rows.sum(dim=1).tolist()
        middle = statistics.median_low(seconds)
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        said: list[str] = []
        for rank, own in enumerate(seconds):
            slow = own > FACTOR * middle and own > middle + MARGIN_SECONDS
            self._in_a_row[rank] = self._in_a_row[rank] + 1 if slow else 0
            now_slow = self._in_a_row[rank] >= INTERVALS
            changed = now_slow != self._said_slow[rank] and (now_slow or not slow)
            if not changed or time.monotonic() - self._said_at[rank] < self._quiet_seconds:
                continue
            self._said_slow[rank], self._said_at[rank] = now_slow, time.monotonic()
            if now_slow:
                said.append(self._slow(rank, rows, middle))
            else:
                said.append(f"{self._names[rank]} keeps up again: {own:.3g} s per step, the median is {middle:.3g} s")
        metrics = {"rank_seconds_median": round(middle, 6), "rank_seconds_max": round(seconds[slowest], 6)}
        return {**metrics, "slowest_rank": slowest}, said

    def _slow(self, rank: int, rows: Tensor, middle: float) -> str:
        usual = [statistics.median_low(column) for column in rows.T.tolist()]
        data, compute = (own - other for own, other in zip(rows[rank].tolist(), usual, strict=True))
        what, own, other = ("data", rows[rank, 0], usual[0]) if data > compute else ("compute", rows[rank, 1], usual[1])
        return (
            f"{self._names[rank]} is slow: {float(rows[rank].sum()):.3g} s of own work per step, the median is"
            f" {middle:.3g} s; its {what} takes {float(own):.3g} s, elsewhere {other:.3g} s"
        )


def gather_own_work(own: tuple[float, float]) -> Tensor:
    """(ranks, 2) seconds of data and compute, on every rank: one tiny exchange."""
    return all_gather(torch.tensor([own], dtype=torch.float64), group_name(None))
