"""Where a run's checkpoints stand. A folder is complete or absent; whoever asks for no more needs no torch."""

import re
from pathlib import Path

PREFIX = "step-"
PARTIAL = ".tmp"


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of that step stands."""
    return run_dir / "checkpoints" / f"{PREFIX}{step:08d}"


def step_of(folder: Path) -> int:
    """At which step that checkpoint was written, by its name."""
    return int(folder.name.removeprefix(PREFIX))


def complete(run_dir: Path) -> list[Path]:
    """The run's complete checkpoints, oldest first; a copy of another name beside them is none."""
    found = (run_dir / "checkpoints").glob(f"{PREFIX}*")
    named = (folder for folder in found if re.fullmatch(rf"{PREFIX}\d+", folder.name))
    return sorted(folder for folder in named if (folder / "meta.json").is_file())


def newest(run_dir: Path) -> Path | None:
    """The run's newest complete checkpoint, if there is one."""
    return next(reversed(complete(run_dir)), None)
