"""A Run as TOML that a person reads and changes: every setting, what it means, and where it differs from the recipe."""

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import math
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from eyespot.cluster.config_files.setting_names import settings
from eyespot.pretrain.config import Run
from eyespot.pretrain.redaction import masked_values
from eyespot.pretrain.run_json import to_values

_WIDTH = 118
_MISSING = object()
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(recipe: str, run: Run, recipe_run: Run) -> str:
    """The file that ``--config`` makes the same run of.

    Args:
        recipe: its name.
        run: all its settings; secrets are masked, as in run.json.
        recipe_run: what those settings are compared with.
    """
    head = [
        "# Settings of a run of eyespot, for --config FILE. Paths begin in the folder in which the command runs;",
        '# "None" = there is none. What differs from the recipe says so.',
        f"recipe = {toml_value(recipe)}",
    ]
    return "\n".join([*head, *_table(run, recipe_run, "")]) + "\n"


def hidden_settings(run: Run) -> list[str]:
    """The settings that ``as_toml`` writes masked: they hold a secret, and are not read back as they are."""
    return [name for name, _, value in settings(run) if masked_values(plain := to_values(value)) != plain]


def toml_value(value: Any) -> str:
    """A plain value, as TOML writes it; None is "None", as for flags."""
    if value is None:
        return '"None"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(name)} = {toml_value(one)}' for name, one in value.items())}}}"
    # JSON's escapes are TOML's, but that TOML wants DEL escaped, too.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_value(name)


def _table(config: Any, other: Any, prefix: str) -> Iterator[str]:
    """Values first, then what lies in tables of its own, for TOML's tables end where the next begins."""
    texts, inner = descriptions(type(config)), list[tuple[str, Any, Any]]()
    for one in dataclasses.fields(config):
        if "no_flag" in one.metadata:
            continue
        value, before = getattr(config, one.name), getattr(other, one.name, _MISSING)
        if dataclasses.is_dataclass(value):
            inner.append((f"{prefix}{one.name}", value, before))
            continue
        yield ""
        for line in textwrap.wrap(texts.get(one.name, ""), _WIDTH - 2, break_long_words=False):
            yield f"# {line}"
        yield f"{one.name} = {_written(value)}{_difference(value, before)}"
    for name, value, before in inner:
        yield from ("", f"[{name}]")
        yield from _table(value, before, f"{name}.")


def _written(value: Any) -> str:
    return toml_value(masked_values(to_values(value)))


def _difference(value: Any, before: Any) -> str:
    if before is _MISSING or to_values(value) == to_values(before):
        return ""
    was = _written(before)
    return f"  # the recipe: {was if len(was) <= 60 else f'{was[:60]}...'}"


@functools.cache
def descriptions(kind: type) -> dict[str, str]:
    """Of each field of a dataclass: the first sentence of the text below it."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        except (OSError, TypeError, SyntaxError):  # of a class that was made without a file
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for one, below in itertools.pairwise(body):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and (text := _text(below)):
                found[one.target.id] = re.split(r"(?<=\.)\s", " ".join(text.split()))[0]
    return found


def _text(node: ast.stmt) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
