"""CUDA events without a GPU: on a device that works off its queue when a test tells it to."""

from functools import partial
from typing import Any

import torch


class DeviceQueue:
    """Seconds of work that it was given, and how many of them it has done."""

    def __init__(self) -> None:
        self.given, self.done = 0.0, 0.0

    @classmethod
    def instead(cls, monkeypatch: Any) -> "DeviceQueue":
        """In place of the current device for all events that are made from now on."""
        queue = cls()
        monkeypatch.setattr(torch.cuda, "Event", partial(Event, queue))
        return queue

    def add(self, seconds: float) -> None:
        """Gives it work."""
        self.given += seconds

    def work_off(self) -> None:
        """Lets it do all that it was given."""
        self.done = self.given


class Event:
    """A place in the queue. Who waits for it fails."""

    def __init__(self, queue: DeviceQueue, enable_timing: bool = False) -> None:
        assert enable_timing
        self._queue, self._place = queue, 0.0
        self.num_records = 0

    def record(self) -> None:
        self._place = self._queue.given
        self.num_records += 1

    def query(self) -> bool:
        return self._queue.done >= self._place

    def elapsed_time(self, later: "Event") -> float:
        """Milliseconds."""
        assert self.query() and later.query(), "CUDA refuses"
        return 1000 * (later._place - self._place)
