"""How a run ends before its time: in words for the person who started it, or by a file system that is away."""

import errno

OUTAGES = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EREMOTEIO}
    | {errno.ENOSPC, errno.EDQUOT}
)
"""What a file system answers that is away or full: nobody's input is wrong."""
REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""What stays so until somebody changes it: another start would end the same way."""


class TrainingError(RuntimeError):
    """The run cannot go on; the message is one line for the person who started it."""


def last_word(step: int, steps: int) -> str:
    """The log's last line of a run that ended at this step as it was told to."""
    if step >= steps:
        return f"done: step {step} of {steps}"
    return f"stopped as asked after step {step} of {steps} (--stop-after); go on with --resume auto"


def in_words(error: OSError) -> str:
    """One line: what could not be read or written, and why."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
