"""Opens files that somebody else may have made: a pipe or a device in a file's place is refused, not waited for."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

NOT_PLAIN = "not a plain file"


def open_plain(path: Path) -> BufferedReader:
    """Opens a file for reading.

    Raises:
        OSError: it cannot be opened; EINVAL where a pipe, a device, a socket or a folder stands there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe's open would wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, NOT_PLAIN, str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
