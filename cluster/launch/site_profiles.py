"""Site defaults: what ``eyespot launch`` need not be told each time.

Two files may hold them, as TOML: ``cluster.toml`` in ``~/.config/eyespot`` (for this person), and ``cluster.toml``
beside the run folder (for these runs). Their tables are profiles with the keys of ``Submission``: ``[default]`` always
applies, ``--profile big`` lays ``[big]`` over it. The file beside the run wins over the person's, a profile over the
defaults, a flag over all. Lists (``setup``, ``sbatch``, ``container_mounts``) add up instead.
"""

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyespot.cluster.launch.submission import Submission
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError

FILE = "cluster.toml"
_LARGEST = 2**20
_NOT_IN_PROFILES = {"words", "name", "then"}
KEYS = [each.name for each in dataclasses.fields(Submission) if each.name not in _NOT_IN_PROFILES]


@dataclass(kw_only=True, slots=True)
class Profile:
    """What applies, and where each value comes from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """For each value: the file and its table."""

    def lay_over(self, table: dict[str, Any], origin: str) -> None:
        """The values of a later table: they replace what there is, lists are added to it."""
        for key, value in table.items():
            if isinstance(value, tuple) and key in self.values:
                self.values[key] += value
                self.origins[key] += f", {origin}"
            else:
                self.values[key], self.origins[key] = value, origin


def site_file() -> Path:
    """The person's own file, whether or not there is one."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "eyespot" / FILE


def load_profile(name: str | None, beside: Path | None) -> Profile:
    """The values of ``[default]`` and of the profile ``name`` in the person's file and in ``beside``.

    Raises:
        UserError: a file is not TOML, a key is unknown or of a wrong type, or no file has the profile.
    """
    files = [(path, _read(path)) for path in dict.fromkeys([site_file(), beside]) if path is not None]
    profile = Profile()
    for wanted in dict.fromkeys(["default", name]):
        for path, tables in files:
            if wanted is not None and wanted in tables:
                profile.lay_over(tables[wanted], f"{path} [{wanted}]")
    if name is not None and not any(name in tables for _, tables in files):
        known = sorted({table for _, tables in files for table in tables} - {"default"})
        where = " and ".join(str(path) for path, _ in files)
        raise UserError(f"profile {name!r}: not in {where}; there is {', '.join(known) or 'no profile'}")
    return profile


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of one file, checked; none where there is no file."""
    try:
        tables = tomllib.loads(foreign_json.read_bytes(path, _LARGEST).decode())
    except FileNotFoundError:
        return {}
    except foreign_json.ForeignJsonError:
        raise  # names the file
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deep; its tables hold keys of eyespot launch") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} stands in no table; put it below [default]")
    return {name: dict(_entry(key, value, path) for key, value in table.items()) for name, table in tables.items()}


def _entry(key: str, value: Any, path: Path) -> tuple[str, Any]:
    """The field that a key names, and its value; dashes are as good as underscores, as on the command line."""
    field_name = key.replace("-", "_")
    if field_name not in KEYS:
        close = difflib.get_close_matches(field_name, KEYS, n=1)
        hint = f"perhaps you meant {close[0]}" if close else f"there are {', '.join(KEYS)}"
        raise UserError(f"{path}: key {key!r} is unknown; {hint}")
    return field_name, _typed(field_name, value, path)


def _typed(key: str, value: Any, path: Path) -> Any:
    """A value of the type that the field has."""
    hint = typing.get_type_hints(Submission)[key]
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if union else (hint,)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise UserError(f"{path}: {key} = {value!r}: must be a list of strings")
    choices = [
        choice for kind in kinds if typing.get_origin(kind) is typing.Literal for choice in typing.get_args(kind)
    ]
    if type(value) not in kinds and value not in choices:
        names = {bool: "true or false", int: "a whole number", str: "a string"}
        wanted = " or ".join(choices) if choices else names[kinds[0]]
        raise UserError(f"{path}: {key} = {value!r}: must be {wanted}")
    return value
