"""A Run as the plain values that ``run.json`` holds, and back."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import C, Run
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.redaction import masked_values
from eyespot.pretrain.run_record import RunRecord, difference


def load_run(path: Path) -> tuple[str, Run]:
    """The recipe's name and the resolved Run out of a run folder or its ``run.json``.

    Raises:
        UserError: there is none, it is damaged, or this version's recipe lacks one of its fields.
    """
    path = RunRecord.path(path) if path.is_dir() else path
    record = RunRecord.read(path)
    return record.recipe, overlay(make_run(record.recipe), record.run, str(path))


def recorded_values(run: Run) -> dict[str, Any]:
    """A Run as ``run.json`` keeps it: without secrets."""
    return masked_values(to_values(run))


def change_of(record: RunRecord, recipe: str, run: Run) -> str | None:
    """What keeps ``run`` from being the same run as the recorded one, in words; None where it is the same.

    Settings that the version which wrote the record did not know count with their defaults.
    """
    before = {"recipe": record.recipe, **with_defaults(record.run, run)}
    return difference(before, {"recipe": recipe, **recorded_values(run)})


def to_values(config: Any) -> Any:
    """A config as plain JSON values."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_values(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_values(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def overlay(config: C, values: dict[str, Any], source: str, prefix: str = "") -> C:
    """``config`` with the values of ``to_values`` laid over it, fields typed as declared.

    Raises:
        UserError: a value for a field that the config does not have.
    """
    hints = typing.get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints or not hasattr(config, name):
            raise UserError(f"{source}: field {prefix}{name} is unknown to this version's recipe")
        current = getattr(config, name)
        if dataclasses.is_dataclass(current) and isinstance(value, dict):
            changes[name] = overlay(current, value, source, f"{prefix}{name}.")
        else:
            changes[name] = _typed(value, hints[name])
    return dataclasses.replace(config, **changes)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _typed(value: Any, hint: Any) -> Any:
    """JSON knows neither tuples nor paths."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, list):
        return tuple(_typed(item, Any) for item in value)
    if isinstance(value, str) and Path in options:
        return Path(value)
    return value


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
        elif known.default is not dataclasses.MISSING:
            filled[known.name] = to_values(known.default)
        elif known.default_factory is not dataclasses.MISSING:
            filled[known.name] = to_values(known.default_factory())
    return filled
