"""Locks between processes (flock), also on file systems that know none. Who dies lets go of them."""

import errno
import fcntl
from typing import Literal

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""What file systems answer that have none: some network and FUSE mounts."""


def lock(file: int, *, wait: bool = False) -> Literal["held", "taken", "unknown"]:
    """Asks for the only lock on an open file.

    Args:
        file: its descriptor; the lock lasts until it is closed.
        wait: until whoever has it lets go.

    Returns:
        "held" by us; "taken" by somebody else; "unknown" where the file system has no locks, and nobody can tell.

    Raises:
        OSError: the file system does not answer.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError as error:
        if error.errno in NO_LOCKS:
            return "unknown"
        raise
    return "held"
