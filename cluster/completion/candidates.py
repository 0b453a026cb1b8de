"""What may stand at the end of a command line that is being typed."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from eyespot.cluster.cli import COMMANDS
from eyespot.cluster.completion.index import OF_RECIPES, OF_WORDS, ROOT, Flags, Index, recipe_names
from eyespot.data_pipeline.plain_files import open_plain

FILES = ":files"
"""Stands for the names of files, which the shell knows better."""
_SHELLS = ("bash", "zsh", "fish")
_GIVES_FILES = ("--from", "--config", "--run-dir", "--out", "--data.shards", "--data.ids", "--ids", "--start.weights")
_LARGEST = 2**20


def complete(words: Sequence[str], index: Index) -> list[str]:
    """What the last of ``words`` may become, each with a tab and a few words behind it where there are some.

    Args:
        words: those after ``eyespot``; bash cuts them at ``=`` and ``:``.
        index: what is known of commands and recipes.
    """
    *before, current = _glued(words)
    if current.startswith("--") and "=" in current:
        flag, _, value = current.partition("=")
        return [f"{flag}={one}" for one in _matching(_values(flag, before, index), value) if one != FILES] or [FILES]
    if before and before[-1].endswith("="):
        return _matching(_values(before[-1][:-1], before[:-1], index), current)
    if before and before[-1].startswith("--") and before[-1] != "--" and not current.startswith("-"):
        following = _known(before[:-1], index).get(before[-1])
        if following is not None or before[-1] in _GIVES_FILES:
            return _matching(_values(before[-1], before[:-1], index), current)
    if current.startswith("-"):
        return _matching([*_known(before, index), "--help"], current)
    return _matching(_words(before, index), current)


def _matching(candidates: Iterable[str], begin: str) -> list[str]:
    return [one for one in dict.fromkeys(candidates) if one == FILES or one.startswith(begin)]


def _glued(words: Sequence[str]) -> list[str]:
    """The words as they were typed: "--device", "=", "c" are the flag "--device=" and its value's beginning."""
    found: list[str] = []
    for word in words:
        if word == "=" and found and found[-1].startswith("--"):
            found[-1] += "="
        elif found and (word == ":" or found[-1].endswith(":")):
            found[-1] += word
        else:
            found.append(word)
    return [*found, ""] if found[-1].endswith("=") and words[-1] == "=" else found


def _words(before: Sequence[str], index: Index) -> list[str]:
    """What is no flag: a command, a recipe, a protocol, or a file."""
    if not before:
        return [*(f"{name}\t{what}" for name, what in COMMANDS.items()), "--help", "--version"]
    command, *rest = _after_dashes(before)
    if not command:
        return ["pretrain"]
    of_files = command in OF_RECIPES and rest and rest[0] in ("--config", "--from")
    if rest and not of_files:
        return [FILES]
    match command:
        case "pretrain" | "plan":
            return _recipes(index)
        case "doctor":
            return [*_recipes(index), FILES]
        case "recipes":
            return _methods()
        case _ if command in OF_WORDS:
            return [name.partition(" ")[2] for name in index.commands if name.startswith(f"{command} ")]
        case "eval":
            return index.protocols
        case "completion":
            return [*_SHELLS]
        case _:
            return [FILES]


def _after_dashes(before: Sequence[str]) -> list[str]:
    """The command and its words; of ``launch ... -- pretrain RECIPE`` those behind the dashes."""
    if before[0] == "launch" and "--" in before:
        return [*before[before.index("--") + 1 :]] or [""]
    return [*before]


def _known(before: Sequence[str], index: Index) -> Flags:
    """The flags of what is being typed."""
    if not before:
        return {"--help": None, "--version": None}
    command, *rest = _after_dashes(before)
    named = [word for word in rest if not word.startswith("-")]
    own = index.commands.get(command, {})
    if command in OF_RECIPES:
        recipe = _recipe(rest)
        if command == "doctor" and recipe is None and not named:
            return own
        of_files: Flags = {"--config": [], "--from": [], **({"--print-config": None} if command == "pretrain" else {})}
        return {**of_files, **own, **index.run, **index.recipes.get(recipe or "", {})}
    below = index.commands.get(f"{command} {named[0]}", own) if named else own
    if command == "eval" and named and f"eval {named[0]}" in index.commands and "--recipe" in below:
        return {**below, **index.run, **index.recipes.get("finetune_tiny", {})}
    return below


def _recipe(rest: Sequence[str]) -> str | None:
    """The recipe that the words name, or the last config file among them."""
    if rest and not rest[0].startswith("-"):
        return rest[0]
    given = [rest[place + 1] for place, word in enumerate(rest[:-1]) if word == "--config"]
    for name in reversed(given):
        try:
            with open_plain(Path(name).expanduser()) as file:  # TAB would wait for a pipe
                recipe = tomllib.loads(file.read(_LARGEST).decode()).get("recipe")
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(recipe, str):
            return recipe
    return None


def _values(flag: str, before: Sequence[str], index: Index) -> list[str]:
    return _known(before, index).get(flag) or (_recipes(index) if flag == "--recipe" else [FILES])


def _recipes(index: Index) -> list[str]:
    """Ours as they are today, and those of installed packages as they were looked up."""
    return sorted({*recipe_names(), *index.recipes})


def _methods() -> list[str]:
    files = (ROOT / "pretrain" / "objectives").glob("*.py")
    return sorted(path.stem for path in files if path.stem != "__init__")
