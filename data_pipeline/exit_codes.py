"""What a command, and each rank of a run, says by its exit code."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. SLURM, launchers and scripts go by these numbers, so they never change."""

    DONE = 0
    FAILED = 1
    """Anything that no other code names: a bug, a full disk, a rank that died."""
    WRONG_INPUT = 2
    """A ``UserError``: the same words would end the same way."""
    STOPPED = 75
    """A signal came, a checkpoint is saved, and the run can go on (EX_TEMPFAIL of sysexits.h: try again later)."""
    UNREAD = 141
    """Who read the output went away, as ``head`` does: 128 + SIGPIPE, as of Unix's own tools."""
