"""A Run as the plain values that ``run.json`` holds, and back."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import msgspec

from eyespot.data_pipeline.augment.views import is_said
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mix import whole_shards
from eyespot.data_pipeline.ranges import LARGEST_NUMBER
from eyespot.pretrain.config import C, Run
from eyespot.pretrain.recipe_lookup import make_recorded
from eyespot.pretrain.redaction import masked_values
from eyespot.pretrain.run_record import RunRecord, difference


def load_run(path: Path) -> tuple[str, Run]:
    """The recipe's name and the resolved Run out of a run folder or its ``run.json``.

    Raises:
        UserError: there is none, it is damaged, or this version's recipe lacks one of its fields.
    """
    path = RunRecord.path(path) if path.is_dir() else path
    record = RunRecord.read(path)
    return record.recipe, overlay(make_recorded(record.recipe, str(path)), record.run, str(path))


def recorded_values(run: Run) -> dict[str, Any]:
    """A Run as ``run.json`` keeps it: without secrets, and what it reads by whole paths, wherever it began."""
    return masked_values({**to_values(with_whole_paths(run)), "run_dir": str(run.run_dir)})


def with_whole_paths(config: C) -> C:
    """The config with absolute paths."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(config, field.name)
        if "names_data" in field.metadata and value:
            changes[field.name] = whole_shards(str(value))
        elif isinstance(value, Path):
            changes[field.name] = value.absolute()
        elif dataclasses.is_dataclass(value):
            changes[field.name] = with_whole_paths(value)
    return dataclasses.replace(config, **changes) if changes else config  # pyright: ignore[reportArgumentType, reportCallIssue]


def change_of(record: RunRecord, recipe: str, run: Run) -> str | None:
    """What keeps ``run`` from being the same run as the recorded one, in words; None where it is the same.

    Settings that the version which wrote the record did not know count with their defaults.
    """
    before = {"recipe": record.recipe, **with_defaults(record.run, run)}
    return difference(before, {"recipe": recipe, **recorded_values(run)})


def to_values(config: Any) -> Any:
    """A config as plain JSON values."""
    if dataclasses.is_dataclass(config):
        told = [f.name for f in dataclasses.fields(config) if is_said(f, config) and "not_recorded" not in f.metadata]
        return {name: to_values(getattr(config, name)) for name in told}
    if isinstance(config, (list, tuple)):
        return [to_values(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def overlay(config: C, values: dict[str, Any], source: str, prefix: str = "", *, partial: bool = False) -> C:
    """``config`` with the values of ``to_values`` laid over it, each of the kind and in the range that its field has.

    Args:
        config: what counts where ``values`` say nothing.
        values: plain values, whoever wrote them.
        source: the file that they stand in.
        prefix: of the fields' names, as in "data.".
        partial: ``values`` are some of the settings, as a person writes them; else all, as ``to_values`` gave them.

    Raises:
        UserError: a value for a field that the config does not have, of another kind, or out of its range.
    """
    hints = typing.get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for one in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        if one.metadata.get("said_if_set") and one.name not in values and not partial:
            changes[one.name] = one.default  # else ``to_values`` had said it
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in hints or not hasattr(config, name):
            raise UserError(f"{source}: field {path} is unknown to this version's recipe")
        current = getattr(config, name)
        if not dataclasses.is_dataclass(current) or (value is None and type(None) in typing.get_args(hints[name])):
            changes[name] = _typed(value, hints[name], f"{source}: {path} {shortened(value)}")
        elif isinstance(value, dict):
            changes[name] = overlay(current, value, source, f"{path}.", partial=partial)
        else:
            raise UserError(f"{source}: {path} {shortened(value)}: expected an object with its fields")
    try:
        return dataclasses.replace(config, **changes)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except UserError as error:
        raise UserError(f"{source}: {named_whole(error, config, prefix)}") from error


def named_whole(error: UserError, config: Any, prefix: str) -> str:
    """A config's complaint, in which the field bears its whole name: a view does not know whose it is."""
    said = str(error)
    named = said.partition(" ")[0] in {field.name for field in dataclasses.fields(config)}
    return f"{prefix}{said}" if named else said


def shortened(value: Any) -> str:
    """A foreign value in a message."""
    try:
        said = " ".join(repr(value)[:200].split())
    except ValueError:  # of thousands of digits, which Python does not print
        said = "with a number of thousands of digits"
    return said if len(said) <= 60 else f"{said[:60]}..."


def _typed(value: Any, hint: Any, what: str) -> Any:
    """JSON knows neither tuples nor paths, and a Python's JSON knows numbers that are none."""
    if value != value:
        raise UserError(f"{what}: is not a number")
    try:
        found = msgspec.convert(value, hint, dec_hook=_path)
    except msgspec.ValidationError as error:
        if choices := typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ():
            raise UserError(f"{what}: choose one of {', '.join(map(str, choices))}") from error
        said = str(error).replace("`", "")
        raise UserError(f"{what}: {said[0].lower()}{said[1:100]}") from error
    except UserError as error:  # of a config that is made whole, a view in a list
        raise UserError(f"{what}: {error}") from error
    if isinstance(found, int) and abs(found) >= LARGEST_NUMBER:
        raise UserError(f"{what}: must be below 2^63")
    return found


def _path(kind: type, value: Any) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise ValueError("expected a path")
    return Path(value)


def with_defaults(values: dict[str, Any], config: Any) -> dict[str, Any]:
    """The values of an older version's run, with the defaults of fields that it did not know yet.

    Args:
        values: as ``to_values`` gave them.
        config: of this version, of the same kind.
    """
    filled = dict(values)
    for known in dataclasses.fields(config):
        current = getattr(config, known.name)
        if known.name in filled:
            if dataclasses.is_dataclass(current) and isinstance(filled[known.name], dict):
                filled[known.name] = with_defaults(filled[known.name], current)
        elif known.metadata.get("said_if_set"):
            continue
        elif known.default is not dataclasses.MISSING:
            filled[known.name] = to_values(known.default)
        elif known.default_factory is not dataclasses.MISSING:
            filled[known.name] = to_values(known.default_factory())
    return filled
