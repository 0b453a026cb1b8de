"""The flags of all commands and recipes, as a file that TAB can read without importing what they are made of."""

import json
import os
import re
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyespot import __version__
from eyespot.data_pipeline.plain_files import open_plain

ROOT = Path(__file__).parents[2]
_LARGEST = 2**24
"""Bytes of the index, which has a hundredth."""
PAUSE_SECONDS = 600
"""Between two tries to make the index behind a TAB."""

OF_RECIPES = ("pretrain", "plan", "doctor")
"""Commands whose first word may be a recipe, and whose flags then are the run's as well."""

OF_WORDS = ("shards", "curate")
"""Commands whose first word is a command of their own."""

Flags = dict[str, list[str] | None]
"""By flag what may follow it: choices; none that are known; None = it is a switch."""


@dataclass(kw_only=True, slots=True)
class Index:
    """What is known without looking at the code."""

    is_fresh: bool = False
    """Whether the code is still that which it was made of."""
    commands: dict[str, Flags] = field(default_factory=dict)
    """By the words of a command: "shards pack"."""
    run: Flags = field(default_factory=dict)
    """The flags of every recipe."""
    recipes: dict[str, Flags] = field(default_factory=dict)
    """By recipe those that not all have."""
    protocols: list[str] = field(default_factory=list)
    """Of eyespot eval."""


def read_index() -> Index:
    """The index as it was last made; an empty one where there is none."""
    try:
        with open_plain(file_of_index()) as file:
            values: dict[str, Any] = json.loads(file.read(_LARGEST))
        key = values.pop("key")
        found = Index(**values, is_fresh=key == state_of_code())
        return found if _is_whole(found) else Index()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Index()


def _is_whole(index: Index) -> bool:
    """Whether all is of the kind that it should be: the file may be another program's, or half of ours."""
    words = [index.protocols]
    for flags in (index.run, *index.commands.values(), *index.recipes.values()):
        words += [choices for choices in flags.values() if choices is not None]
    return all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in words)


def file_of_index() -> Path:
    """Where it is kept, for this place of the package."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "eyespot" / f"completion-{zlib.crc32(str(ROOT).encode()):08x}.json"


def state_of_code() -> str:
    """Changes with the version, and with every file of the package."""
    newest, count, left = 0, 0, [str(ROOT / name) for name in ("cluster", "data_pipeline", "eval", "pretrain")]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    newest, count = max(newest, entry.stat().st_mtime_ns), count + 1
                elif entry.name != "__pycache__" and entry.is_dir():
                    left.append(entry.path)
    return f"{__version__} {count} {newest}"


def recipe_names() -> list[str]:
    """As ``eyespot recipes`` knows them, out of the text of their files."""
    found: list[str] = []
    for path in (ROOT / "pretrain" / "recipes").glob("*.py"):
        found += re.findall(rf"^def ({path.stem}_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted(found)


def refresh_behind() -> None:
    """Makes the index anew in a process of its own, of low priority; seldom, whatever becomes of it."""
    note = file_of_index().with_suffix(".tried")
    with suppress(OSError):
        if note.exists() and time.time() - note.stat().st_mtime < PAUSE_SECONDS:
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
        subprocess.Popen(
            [sys.executable, "-P", "-m", "eyespot", "completion", "--refresh"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: os.nice(19) and None,
        )
