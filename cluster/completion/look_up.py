"""Makes the index of ``index.py``: from the help texts of the commands, and from the settings of the recipes."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from eyespot.cluster.cli import COMMANDS
from eyespot.cluster.commands.eval import Evaluation
from eyespot.cluster.completion.index import OF_RECIPES, OF_WORDS, Flags, Index, file_of_index, state_of_code
from eyespot.cluster.config_files.setting_names import settings
from eyespot.cluster.eval_commands import finetune, joint
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import all_names, recipe_names

_FLAG = re.compile(r"^(?:│ |  )(?:-\w, )?(--[\w.-]+)(?:, (--[\w.-]+))?(?: (\S+))?")


def write_index() -> None:
    """Looks at everything there is, and keeps it.

    Raises:
        OSError: the file cannot be written.
    """
    index = looked_up()
    values = {**dataclasses.asdict(index), "key": state_of_code()}
    del values["is_fresh"]
    path = file_of_index()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(values).encode())


def looked_up() -> Index:
    """The flags of all commands and recipes."""
    of_recipes = flags_by_recipe()
    shared = set.intersection(*(set(flags) for flags in of_recipes.values()))
    run = {name: choices for name, choices in next(iter(of_recipes.values())).items() if name in shared}
    commands: dict[str, Flags] = {}
    for name in (name for name in COMMANDS if name != "completion"):
        commands[name] = _of_help(name)
        if name in OF_RECIPES:
            own = _of_help(name, "mae_tiny") if name != "pretrain" else {}
            commands[name] |= {flag: choices for flag, choices in own.items() if flag not in of_recipes["mae_tiny"]}
    for above in OF_WORDS:
        for name in re.findall(r"^  ([a-z]+) [A-Z]+", _help(above), re.MULTILINE):
            commands[f"{above} {name}"] = _of_help(above, name)
    trained, joined = [*finetune.PROTOCOLS], [*joint.PROTOCOLS]
    commands |= {f"eval {name}": _of_help("eval", name) for name in [*trained, "compare", "select", joined[0]]}
    commands |= {f"eval {name}": commands[f"eval {joined[0]}"] for name in joined}
    frozen = _choices(typing.get_type_hints(Evaluation)["protocol"])
    return Index(
        commands=commands,
        run=run,
        recipes={name: {k: v for k, v in flags.items() if k not in shared} for name, flags in of_recipes.items()},
        protocols=[*frozen, *trained, *joined, "compare", "select"],
    )


def flags_by_recipe() -> dict[str, Flags]:
    """The flags of every recipe but those of installed packages that fail: ``eyespot recipes`` says what is wrong."""
    ours, found = recipe_names(), dict[str, Flags]()
    for name, function in all_names().items():
        try:
            found[name] = flags_of(function())
        except Exception:
            if name in ours:
                raise
    return found


def flags_of(run: Run) -> Flags:
    """The flags of ``eyespot pretrain`` for a recipe, in the order of its settings."""
    found: Flags = {"--epochs": []}
    for name, kind, _ in settings(run):
        dashed = name.replace("_", "-")
        group, dot, last = dashed.rpartition(".")
        if kind is bool:
            found |= {f"--{dashed}": None, f"--{group}{dot}no-{last}": None}
        else:
            found[f"--{dashed}"] = _choices(kind)
    return found


def _choices(kind: Any) -> list[str]:
    if typing.get_origin(kind) is Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return [choice for part in typing.get_args(kind) for choice in _choices(part)]
    return []


def _of_help(*words: str) -> Flags:
    return dict(_flags_in(_help(*words)))


def _flags_in(text: str) -> Iterator[tuple[str, list[str] | None]]:
    """Those that begin a line of a help text, and those of its first lines."""
    usage = re.match(r"usage:.*(?:\n {7}eyespot .*)*", text)
    for flag, value in re.findall(r"(--\w[\w.-]*)( [A-Z[]?)?", usage[0] if usage else ""):
        yield flag, [] if value.strip() else None
    for line in text.splitlines():
        if (found := _FLAG.match(line)) is None:
            continue
        first, second, value = found.groups()
        inside = re.findall(r"\{([^}]*)\}", value or "")
        choices = [choice for group in inside for choice in group.split(",") if choice != "None"]
        yield first, choices if value else None
        if second:
            yield second, choices if value else None


def _help(*words: str) -> str:
    """What a command answers to ``--help``, with one flag a line: wider pages have columns."""
    said, before = io.StringIO(), dict(os.environ)
    os.environ |= {"COLUMNS": "110", "NO_COLOR": "1"}
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            importlib.import_module(f"eyespot.cluster.commands.{words[0]}").main([*words[1:], "--help"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
