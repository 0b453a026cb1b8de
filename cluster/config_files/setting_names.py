"""The settings of a run by name ("optim.lr"): which there are, and what was meant by one that there is not."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The whole names of what dicts in dicts hold."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each setting that has a flag: its whole name, its type, its value; those of one config stand together."""
    hints = hints_of(type(config))
    inner: list[tuple[str, Any]] = []
    for one in dataclasses.fields(config):
        if "no_flag" in one.metadata:
            continue
        value, name = getattr(config, one.name), f"{prefix}{one.name}"
        if dataclasses.is_dataclass(value):
            inner.append((f"{name}.", value))
        else:
            yield name, hints[one.name], value
    for name, value in inner:
        yield from settings(value, name)


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The types of a config's fields."""
    return typing.get_type_hints(kind)


def unknown(config: Any, values: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first setting in ``values`` that ``config`` has not, and what to do; None = it has them all."""
    return next(_unknown(config, values, [name for name, _, _ in settings(config)], ""), None)


def _unknown(config: Any, values: Mapping[str, Any], all_names: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    """``config`` may be a class, where there is none yet."""
    known = [one.name for one in dataclasses.fields(config) if "no_flag" not in one.metadata]
    for name, value in values.items():
        if name not in known and any(one.name == name for one in dataclasses.fields(config)):
            if getattr(config, name, None) != value:  # as it is, it may stand in a config that is given whole
                yield f"{prefix}{name}", "the method sets it; leave it out"
        elif name not in known:
            elsewhere = [whole for whole in all_names if whole.rpartition(".")[2] == name]
            close = [f"{prefix}{found}" for found in difflib.get_close_matches(name, known, n=1, cutoff=0.5)]
            near = elsewhere or close
            yield f"{prefix}{name}", f"perhaps you meant {near[0]}" if near else f"there are {', '.join(known)}"
        elif isinstance(value, Mapping) and (inner := _inner(config, name)) is not None:
            yield from _unknown(inner, value, all_names, f"{prefix}{name}.")


def _inner(config: Any, name: str) -> Any:
    """The config in a field; where there is none yet, its class, if there can be but one; None = the field has none."""
    kind = config if isinstance(config, type) else type(config)
    if kind is not config and dataclasses.is_dataclass(value := getattr(config, name, None)):
        return value
    hint = hints_of(kind).get(name)
    classes = [one for one in (hint, *typing.get_args(hint)) if isinstance(one, type) and dataclasses.is_dataclass(one)]
    return classes[0] if len(classes) == 1 else None


def as_typed(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file as flags mean them: "None" where a setting may have none, ~ in paths is the home folder."""
    hints, found = hints_of(config if isinstance(config, type) else type(config)), dict[str, Any]()
    places = {field.name for field in dataclasses.fields(config) if "names_data" in field.metadata}
    for name, value in values.items():
        inner, hint = _inner(config, name), hints.get(name)
        kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        if isinstance(value, Mapping) and inner is not None:
            found[name] = as_typed(inner, value)
        elif value == "None" and type(None) in kinds:
            found[name] = None
        elif isinstance(value, str) and value.startswith("~") and (Path in kinds or name in places):
            found[name] = str(Path(value).expanduser())
        else:
            found[name] = value
    return found
