"""Reads that outlast a file server's absence: tried again, with growing pauses, as long as there is patience.

A read that fails tells nothing of the file: the server restarts, a mount is lost, a disk is full of errors. What is
known to be wrong for good (no such file, when nobody has seen it yet) is for the caller to tell apart.
"""

import errno
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from eyespot.data_pipeline.errors import Outage

log = logging.getLogger("eyespot")

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries; each pause is twice the last, and up to half of it is left to chance."""

_OUTAGES = {
    *(errno.ESTALE, errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.ECONNREFUSED, errno.EPIPE, errno.EPROTO, errno.ENOLINK, errno.ECOMM, errno.EREMCHG, errno.EAGAIN),
    *(errno.EBUSY, errno.ENODEV, errno.ENXIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED, errno.EKEYREJECTED),  # of a mount with tickets
}


def is_outage(error: OSError) -> bool:
    """Whether the machine or its network is to blame, and not the path that somebody gave."""
    return error.errno in _OUTAGES


def any_error(error: OSError) -> bool:
    """For files that were there before: whatever happens to them now is an outage, also that they are gone."""
    return True


class Patience:
    """Of one reader, whose threads may all wait at once. It says once that it waits and once that it goes on.

    Args:
        seconds: for how long a read is tried again; the first try is always made.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._num_waiting, self._since = 0, 0.0

    def __reduce__(self) -> tuple[type["Patience"], tuple[float]]:
        return Patience, (self.seconds,)  # another process waits for itself

    def read(self, path: object, read: Callable[[], T], waits: Callable[[OSError], bool] = any_error) -> T:
        """What ``read`` returns at last.

        Args:
            path: what is read, for the messages: a path, or an address in a store.
            read: opens anew, reads, and raises OSError where it cannot.
            waits: which errors are waited for; the others are raised.

        Raises:
            Outage: it cannot be read for so long.
        """
        try:
            return read()
        except OSError as error:
            if not waits(error):
                raise
            self._begin(path, error)
            asked = asked_to_wait(error)
        came = False
        try:
            content = self._again(path, read, waits, asked)
            came = True
            return content
        finally:
            self._end(path, came)

    def close(self) -> None:
        """Lets go of who waits: nobody wants what they read any more."""
        self._closed.set()

    def _again(self, path: object, read: Callable[[], T], waits: Callable[[OSError], bool], asked: float) -> T:
        until, pause = time.monotonic() + self.seconds, FIRST_PAUSE
        while True:
            left = until - time.monotonic()
            closed = self._closed.wait(max(0.0, min(left, asked + pause * random.uniform(0.5, 1))))
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                return read()
            except OSError as error:
                if not waits(error):
                    raise
                asked = asked_to_wait(error)
                if closed or time.monotonic() >= until:
                    raise Outage(
                        f"{path}: cannot be read for {self.seconds:.0f} s ({words(error)});"
                        f" see to {_server(path)}, and start again"
                    ) from error

    def _begin(self, path: object, error: OSError) -> None:
        with self._lock:
            self._num_waiting += 1
            if self._num_waiting == 1 and self.seconds > 0:
                self._since = time.monotonic()
                log.warning("%s: %s; waiting up to %.0f s for %s", path, words(error), self.seconds, _server(path))

    def _end(self, path: object, came: bool) -> None:
        with self._lock:
            self._num_waiting -= 1
            if self._num_waiting == 0 and came and self.seconds > 0:
                log.warning("%s: can be read again, after %.0f s", path, time.monotonic() - self._since)


def words(error: OSError) -> str:
    """What happened, without number and path."""
    return error.strerror or str(error)


def asked_to_wait(error: OSError) -> float:
    """Seconds that a server asked for (Retry-After), where it did."""
    return getattr(error, "retry_after", 0.0)


def _server(path: object) -> str:
    """Who is waited for."""
    return "the file system" if isinstance(path, Path) else "the store"
