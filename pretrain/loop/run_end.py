"""How a run ends before its time: in words for the person who started it, or by a file system that is away."""

import errno
import re
from pathlib import Path
from typing import Literal

from eyespot.data_pipeline.plain_files import read_tail

LOG = Path("logs") / "rank-0.log"
"""In a run folder: what its first process said."""
End = Literal["done", "stopped", "failed"]
_TAIL_BYTES = 1 << 17
_STAMP = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ ([A-Z]+) (.*)")
_TELLING = ("M parameters, in ", "going on after step ", "done: step ", "stopped")
"""One of these is in every line that the next two tell of: most lines are none of them."""
_STARTS = re.compile(r"\S+: .* M parameters, in |.*going on after step \d+, from ")
_ENDS: tuple[tuple[End, re.Pattern[str]], ...] = (
    ("done", re.compile(r"done: step \d+ of \d+|stopped as asked after step")),
    ("stopped", re.compile(r"stopped by \S+ after step")),
    ("failed", re.compile(r"stopped: ")),
)

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


def read_end(run_dir: Path, inside: Path | None = None) -> tuple[End | None, str]:
    """How a run's log says that it ended, and in which words; None where it did not say, or began once more after it.

    Args:
        run_dir: the run folder.
        inside: the folder out of which no link may lead.
    """
    for line in reversed(read_tail(run_dir / LOG, _TAIL_BYTES, inside).decode(errors="replace").split("\n")):
        if not any(words in line for words in _TELLING) or (stamped := _STAMP.match(line)) is None:
            continue
        for kind, pattern in _ENDS:
            if pattern.match(stamped[2]):
                return kind, stamped[2]
        if _STARTS.match(stamped[2]):
            break
    return None, ""
