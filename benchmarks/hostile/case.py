"""One hostile or merely odd input: how it is made, which commands meet it, and what a user may expect of them."""

import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

Wants = Literal["taken", "refused", "either", "told", "failed"]
"""taken: exit code 0, nothing lost. refused: exit code 2, one line. either: one of both. told: ``verify`` finds it, or
refuses. failed: an outage, exit code 1 or 2, one line."""
Words = Sequence[str]

SMALL = [
    *("--data.batch-size", "16", "--log-every", "1", "--save-every", "10", "--picture-every", "0"),
    *("--monitor-every", "0", "--device", "cpu", "--steps", "3", "--optim.warmup-steps", "1", "--no-track"),
    *("--objective.decoder-dim", "32", "--objective.decoder-depth", "1", "--run-dir", "trained"),
]
TRAIN = ["pretrain", "mae_tiny", "--data.shards", "shards", *SMALL]
"""Three steps of a very small run."""


@dataclass(kw_only=True, slots=True)
class Room:
    """The empty folder of one case, in which its commands start."""

    path: Path
    fixtures: Path
    """Sound shards, a run and a release, made once."""
    name: str
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(zlib.crc32(self.name.encode()))

    def take(self, fixture: str) -> Path:
        """A copy of the sound ``shards``, ``run``, ``release`` or ``encoder.safetensors``, to be spoilt."""
        source, copy = self.fixtures / fixture, self.path / fixture
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True)
        else:
            shutil.copyfile(source, copy)
        return copy

    def __truediv__(self, name: str) -> Path:
        return self.path / name


Make = Callable[[Room], Sequence[Words]]
"""Makes the input; returns the commands, without ``eyespot``. Each runs only if the one before ended with 0."""


@dataclass(kw_only=True, slots=True)
class Case:
    """One input."""

    kind: str
    name: str
    wants: Wants
    make: Make
    says: str = ""
    """A word that the refusal must have, so that the user knows what is meant; several with | between them."""
    lost: Callable[[Path, str], str] | None = None
    """Asked after an input was taken, with the room and all that was printed: what vanished; "" = nothing."""
    evil: str = ""
    """A file in the room that is only there if foreign code has run, or something was written where it must not."""
    seconds: float = 60.0
    """Longest time of one command on a quiet core."""
    megabytes: int = 1000
    """Most memory of one command, beyond what its libraries take."""


@dataclass(kw_only=True, slots=True)
class Ended:
    """How a command ended."""

    words: list[str]
    code: int | None
    """Exit code, negative for a signal; None = it was stopped, for its time or its memory."""
    why: str
    """"time" or "memory", where it was stopped."""
    out: bytes
    err: bytes
    seconds: float
    megabytes: float


@dataclass(kw_only=True, slots=True)
class Verdict:
    """What the judge says of a case."""

    kind: str
    name: str
    wants: str
    fault: str
    """"" = right."""
    how: str
    """"taken", "refused" or "failed", where it is right; the first telling line, where not."""
    commands: list[str]
    seconds: float
    megabytes: float
