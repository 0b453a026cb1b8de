"""The thread that brings a run folder to one place while the run goes on, whatever the place does."""

import logging
import threading
import time
from pathlib import Path

from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.mirror import Mirror, Writer, brief

_LOG = logging.getLogger("eyespot")
_INTERVAL_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 30.0
QUIET_SECONDS = 5.0
"""At its end a run says what it waits for, where that takes longer."""


class Follower:
    """Pushes over and over, in a thread of its own; a place that fails is tried again, more and more seldom.

    Args:
        run_dir: the run folder.
        writer: of the place.
    """

    def __init__(self, run_dir: Path, writer: Writer) -> None:
        self.mirror = Mirror(run_dir, writer)
        self.what = f"{writer.name} at {writer.place}"
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._complete = False
        self._thread = threading.Thread(target=self._follow, name=writer.name.lower(), daemon=True)
        self._thread.start()

    def begin_close(self, wait_seconds: float) -> None:
        """The run is over: what is not brought within this time will not be tried again."""
        self._deadline = time.monotonic() + wait_seconds
        self._closing.set()

    def close(self, wait_seconds: float, busy_seconds: float) -> bool:
        """Waits until all is brought, ``wait_seconds`` at most, or ``busy_seconds`` for a file here; True if it is."""
        if not self._closing.is_set():
            self.begin_close(wait_seconds)
        left = max(0.0, self._deadline - time.monotonic())
        self._thread.join(min(left, QUIET_SECONDS))
        if self._thread.is_alive():
            longest = max(left, busy_seconds) if self.mirror.writer.is_file else left
            _LOG.info("sending the rest to %s (%.0f s at most)", self.what, longest)
            self._thread.join(max(0.0, longest - min(left, QUIET_SECONDS)))
        if not self._complete:
            self.mirror.writer.drop()
        return self._complete

    def _follow(self) -> None:
        failures = 0
        while True:
            closing = self._closing.is_set()  # before the push, which then sees all that was logged before closing
            try:
                self.mirror.push()
                if closing:
                    self.mirror.writer.close()
            except Exception as error:
                if not failures:
                    _LOG.warning("%s: %s; %s keeps it all, trying again", self.what, brief(error), metrics_file.NAME)
                failures += 1
                if closing and time.monotonic() > self._deadline:
                    return
            else:
                if failures:
                    times = "one failure" if failures == 1 else f"{failures} failures"
                    _LOG.info("%s: has everything again, after %s", self.what, times)
                failures = 0
                if closing:
                    self._complete = True
                    return
            wait = min(_INTERVAL_SECONDS * 2 ** min(failures, 10), _LONGEST_WAIT_SECONDS)
            if closing:
                time.sleep(1.0)
            else:
                self._closing.wait(wait)
