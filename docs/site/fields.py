"""Tables of settings and of files' fields, out of the dataclasses that declare them: name, type, default, words.

A page asks for one by a comment, which a repository's host does not show:

    <!-- fields of eyespot.pretrain.config.DataConfig as data. -->
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import GroupedMetadata

from eyespot.cluster.method_cards import Card, cards, paragraphs
from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.run_json import to_values

_ASKED = re.compile(r"^<!-- fields of (?P<name>[\w.]+)(?: as (?P<prefix>[\w.]+))? -->$", re.M)
_WORDS = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false", "Path": "path"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
UNTOLD = ("run_dir", "recipe")
"""Settings that say where, not what."""


def with_tables(markdown: str) -> str:
    """The page with a table in place of each comment that asks for one."""
    return _ASKED.sub(lambda asked: table(_found(asked["name"]), asked["prefix"] or ""), markdown)


def table(kind: type, prefix: str = "") -> str:
    """The fields of a dataclass that are no dataclasses themselves, but for views.

    Args:
        kind: the dataclass.
        prefix: what stands before its fields' names: "data.".
    """
    hints, docs = typing.get_type_hints(kind, include_extras=True), _docs(kind)
    rows = [
        (f"`{prefix}{one.name}`", in_words(hints[one.name]), _default(one), docs.get(one.name, ""))
        for one in dataclasses.fields(kind)
        if "not_recorded" not in one.metadata and "no_flag" not in one.metadata and not _is_nested(hints[one.name])
    ]
    return _drawn("fields", ("name", "type", "default", "what"), rows)


def method_page(name: str, section: str) -> str:
    """The page of one method: its section of docs/methods.md with all its file says, its settings and its recipes.

    Args:
        name: of the method.
        section: without its heading.
    """
    card = _cards()[name]
    formulas = re.compile(r"(```text\n.*?```\n*)+", re.S)
    text = "\n\n".join(_paragraph(part) for part in paragraphs(card.text)[1:])
    before, _, facts = formulas.sub("", section).partition("\n- ")
    told = f"{before.rstrip()}\n\n{text}\n\n- {facts}"
    config = type(next(iter(card.recipes.values())).objective)
    first = next((recipe for recipe in card.recipes if recipe.endswith("_tiny")), next(iter(card.recipes)))
    parts = [
        f"# {name}",
        told,
        f"```sh\neyespot pretrain {first} --data.shards SHARDS --run-dir RUN\n```",
        f"## Settings of {name}",
        table(config, "objective."),
        "The settings of [every run](reference/settings.md), and what a view may be, are the same for all methods.",
        "## Recipes",
        _recipes(card),
    ]
    return "\n\n".join(parts) + "\n"


def _recipes(card: Card) -> str:
    """What each recipe of a method is for, and where its settings are others than the defaults."""
    from eyespot.pretrain.recipe_lookup import recipe_names

    functions = recipe_names()
    told = "\n".join(
        f"- `{name}`: {' '.join((inspect.getdoc(functions[name]) or '').split())}" for name in card.recipes
    )
    runs = {name: dict(_flat(to_values(run))) for name, run in card.recipes.items()}
    config = type(next(iter(card.recipes.values())).objective)
    usual = dict(_flat(to_values(Run(objective=config()))))
    names = dict.fromkeys(setting for values in runs.values() for setting in values)
    others = [
        setting
        for setting in names
        if setting not in UNTOLD and any(values.get(setting) != usual.get(setting) for values in runs.values())
    ]
    rows = [
        (f"`{setting}`", *(_shown(values.get(setting)) for values in runs.values()), _shown(usual.get(setting)))
        for setting in others
    ]
    header = ("setting", *(f"`{name}`" for name in runs), "default")
    return f"{told}\n\nWhere they set something else than the default:\n\n{_drawn('recipes', header, rows)}"


def in_words(hint: Any) -> str:
    """A type, as a person is told of it."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        return f"{in_words(parts[0])}{_range(parts[1:])}"
    if kind is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if kind in (typing.Union, types.UnionType):
        return " or ".join("none" if part is types.NoneType else in_words(part) for part in parts)
    if kind is tuple and parts[-1] is ...:
        return f"list of {in_words(parts[0])}"
    if kind in (tuple, list):
        same = len({str(part) for part in parts}) == 1
        if kind is list:
            return f"list of {in_words(parts[0])}"
        return f"{len(parts)} of {in_words(parts[0])}" if same else "; ".join(in_words(part) for part in parts)
    if kind is dict:
        return f"{in_words(parts[0])} → {in_words(parts[1])}"
    name = getattr(hint, "__name__", str(hint))
    return f"{_spaced(name)}" if dataclasses.is_dataclass(hint) else _WORDS.get(name, "any" if hint is Any else name)


def _range(marks: tuple[Any, ...]) -> str:
    """What annotated-types say of a number."""
    single = [one for mark in marks for one in (mark if isinstance(mark, GroupedMetadata) else (mark,))]
    bounds = [
        f"{_SIGNS[one.name]} {value}"
        for mark in single
        if dataclasses.is_dataclass(mark)
        for one in dataclasses.fields(mark)
        if one.name in _SIGNS and (value := getattr(mark, one.name)) not in (None, math.inf, 2**63 - 1)
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def _default(one: "dataclasses.Field[Any]") -> str:
    if one.default is not dataclasses.MISSING:
        return _shown(one.default)
    if one.default_factory is not dataclasses.MISSING:
        return _shown(one.default_factory()) if one.default_factory in (dict, list, tuple) else "made anew"
    return "*needed*"


def _shown(value: Any) -> str:
    """A value as it is written; of a view what differs from the usual one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = [
            f"{one.name} {_plain(getattr(value, one.name))}"
            for one in dataclasses.fields(value)
            if getattr(value, one.name) != one.default
        ]
        return f"`{', '.join(changed)}`" if changed else "as it comes"
    if value is None:
        return "none"
    return f"`{_plain(value)}`" if value not in ("", (), [], {}) else "empty"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(_plain(one) for one in value)
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_nested(hint: Any) -> bool:
    """Whether a field is a part of the config that another table tells of; views are values."""
    is_part = dataclasses.is_dataclass(hint) and hint.__module__ != RandomView.__module__
    return is_part or getattr(hint, "__name__", "") == "Config"


def _spaced(name: str) -> str:
    """RandomView -> random view."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _paragraph(text: str) -> str:
    """One of a docstring, as Markdown."""
    if text.startswith("    "):
        return f"```text\n{inspect.cleandoc(text)}\n```"
    return text.replace("``", "`").replace("<", "&lt;")


def _drawn(kind: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown, in a part of the page that look.css knows by its kind."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    first, *others = [f"| {' | '.join(row)} |" for row in cells]
    lines = [first, f"|{' --- |' * len(header)}", *others]
    return "\n".join([f'<div class="{kind}" markdown>', "", *lines, "", "</div>"])


@functools.cache
def _cards() -> dict[str, Card]:
    return {card.name: card for card in cards()}


def _found(name: str) -> type:
    """The dataclass of that dotted name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def _docs(kind: type) -> dict[str, str]:
    """The texts that stand below the fields of a dataclass and of those it is made of, or behind them as comments."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        path = getattr(sys.modules.get(one.__module__), "__file__", None)
        if one.__module__.startswith("eyespot") and path:
            found |= _texts(path).get(one.__qualname__, {})
    return {name: " ".join(text.split()).replace("``", "`").replace("<", "&lt;") for name, text in found.items()}


@functools.cache
def _texts(path: str) -> dict[str, dict[str, str]]:
    """Of each class in a file, the texts below its fields."""
    found: dict[str, dict[str, str]] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                own = found[f"{prefix}{node.name}"] = {}
                for field, text in zip(node.body, node.body[1:], strict=False):
                    if (
                        isinstance(field, ast.AnnAssign)
                        and isinstance(text, ast.Expr)
                        and isinstance(field.target, ast.Name)
                    ):
                        own[field.target.id] = str(ast.literal_eval(text.value))
                visit(node.body, f"{prefix}{node.name}.")

    visit(ast.parse(Path(path).read_text()).body, "")
    return found
