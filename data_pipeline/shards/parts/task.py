"""Which of how many tasks this is: ``3/8``, counted from 0 as SLURM's job arrays usually are."""

import os
import re
from typing import NamedTuple

from eyespot.data_pipeline.errors import UserError

MOST = 10_000


class Task(NamedTuple):
    """One of several that pack a source together."""

    number: int
    """From 0."""
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> "Task":
        """``I/N``, ``auto/N`` (I is SLURM_ARRAY_TASK_ID), or ``auto`` (N too is the array's).

        Raises:
            UserError: it is none of these, I is not below N, or this is no task of an array that counts from 0.
        """
        if text == "auto":
            number, first, last = (_asked(f"SLURM_ARRAY_TASK_{name}", text) for name in ("ID", "MIN", "MAX"))
            count = _asked("SLURM_ARRAY_TASK_COUNT", text)
            if (first, last) != (0, count - 1):
                raise UserError(
                    f"task auto: the array has {count} of the tasks {first} to {last}; submit --array=0-{last}, or, to"
                    f" repeat some, say how many there are in all: --task auto/N"
                )
        elif found := re.fullmatch(r"(\d{1,9}|auto)/(\d{1,9})", text):
            number = _asked("SLURM_ARRAY_TASK_ID", text) if found[1] == "auto" else int(found[1])
            count = int(found[2])
        else:
            raise UserError(f"task {text!r}: write it as I/N, I from 0 to N - 1, or as auto inside a SLURM array")
        if not 1 <= count <= MOST:
            raise UserError(f"task {text}: of {count} tasks; there may be 1 to {MOST:,}")
        if number >= count:
            raise UserError(f"task {number}/{count}: tasks count from 0, so the last of {count} is {count - 1}/{count}")
        return cls(number, count)


def _asked(name: str, text: str) -> int:
    value = os.environ.get(name, "")
    if not re.fullmatch(r"\d{1,9}", value):
        raise UserError(f"task {text}: {name} is not set here, as it is in a SLURM array; write --task I/N")
    return int(value)
