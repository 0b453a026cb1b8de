"""TOML that a person wrote, and on which line each key of it stands."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError

LARGEST = 2**20
"""Bytes of a file: all settings of a run take some thousands."""
_TOKEN = re.compile(
    r'''#[^\n]*|"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[\[\]{}=\n]|[^\[\]{}=\n"'#]+''',
    re.DOTALL,
)
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)")
_FIXES = {
    "Invalid value": 'text stands in "quotes", true and false are small',
    "Cannot overwrite a value": "it is given twice; leave one out",
    "Cannot declare": "the table is given twice; put its settings into one",
    "Invalid statement": "write name = value, or [table]",
    "Expected '=' after a key": "write name = value",
    "Unclosed array": "it ends with ]",
    "Expected newline or end of document": "each setting has its own line",
}
"""By the beginning of what tomllib says."""


@dataclass(kw_only=True, slots=True, frozen=True)
class TomlFile:
    """What stands in one file."""

    path: Path
    values: dict[str, Any]
    """Tables are dicts; dashes in keys are underscores, as flags may have either."""
    text: str

    def says(self, name: str) -> bool:
        """Whether it holds a setting ("optim.lr"), one inside it, or one that it lies in."""
        values: Any = self.values
        for key in name.split("."):
            if not isinstance(values, dict):
                return True
            if key not in values:
                return False
            values = values[key]
        return True

    def place(self, name: str) -> str:
        """Where a setting stands: "run.toml:7"; of one in an inline table, where that begins."""
        lines, keys = dict(_lines(self.text)), tuple(name.split("."))
        shorter = (keys[:count] for count in range(len(keys), 0, -1))
        found = next((line for known in shorter if (line := lines.get(known)) is not None), None)
        return f"{self.path}:{found}" if found is not None else str(self.path)


def read_toml(path: Path) -> TomlFile:
    """Reads a file of settings.

    Raises:
        UserError: there is none, or it is no TOML: the message names file, line and fix.
    """
    try:
        content = foreign_json.read_bytes(path.expanduser(), LARGEST)
    except foreign_json.ForeignJsonError as error:
        if path.is_dir():
            raise UserError(f"config {path}: is a folder; name a file, or repeat a run with --from {path}") from error
        raise UserError(f"config {path}: {error.why}") from error
    except OSError as error:
        raise UserError(f"config {path}: cannot be read ({error.strerror}); name a TOML file of settings") from error
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte 0x{content[error.start]:02x} is no UTF-8; save it as UTF-8") from error
    if text.lstrip().startswith("{"):
        raise UserError(f"{path}:1: is JSON, not TOML; a run is repeated with --from {path}")
    try:
        values = tomllib.loads(text)
        if foreign_json.is_deeper(values, foreign_json.DEEPEST):
            raise UserError(f"config {path}: nested too deep; settings are tables of values")
    except tomllib.TOMLDecodeError as error:
        raise UserError(_in_words(path, text, str(error))) from error
    except RecursionError as error:
        raise UserError(f"config {path}: nested too deep; settings are tables of values") from error
    except ValueError as error:  # a number of 5,000 digits
        raise UserError(f"config {path}: not TOML ({error})") from error
    return TomlFile(path=path, values=_underscored(values, path, text), text=text)


def _in_words(path: Path, text: str, said: str) -> str:
    """What tomllib says, with the line in front and the fix behind."""
    place = _PLACE.search(said)
    line = int(place[1]) if place and place[1] else max(1, len(text.rstrip().splitlines()))
    fix = next((fix for begin, fix in _FIXES.items() if said.startswith(begin)), "write name = value")
    words = _PLACE.sub("", said)
    shown = text.splitlines()[line - 1].strip()[:60] if text.strip() else ""
    return f"{path}:{line}: {shown!r} is not TOML: {words[:1].lower()}{words[1:200]}; {fix}"


def _underscored(values: dict[str, Any], path: Path, text: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in found:
            twice = TomlFile(path=path, values={}, text=text).place(".".join((*prefix, name)))
            raise UserError(f"{twice}: {'.'.join((*prefix, key))} is given twice, with - and with _; leave one out")
        found[name] = _underscored(value, path, text, (*prefix, name)) if isinstance(value, dict) else value
    return found


def _lines(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each key with its tables before it, and its line; of valid TOML."""
    table: tuple[str, ...] = ()
    for statement, line in _statements(text):
        if statement.startswith("["):
            table = _path(tomllib.loads(statement))
            yield table, line
        else:
            keys = _path(tomllib.loads(f"{statement} = 0"))
            yield from ((table + keys[:count], line) for count in range(1, len(keys) + 1))


def _statements(text: str) -> Iterator[tuple[str, int]]:
    """The headers of tables, and what stands before each ``=``, with the lines on which they begin."""
    words, line, began, depth, in_value = "", 1, 1, 0, False
    for token in [*_TOKEN.findall(text), "\n"]:
        is_header = words.startswith("[")
        if token == "\n" and depth == 0:
            if is_header:
                yield words, began
            words, in_value = "", False
        elif token == "=" and not in_value and not is_header:
            yield words, began
            in_value = True
        elif not in_value and not token.startswith("#"):
            began = began if words else line
            words += token if words else token.lstrip()
        elif token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        line += token.count("\n")


def _path(values: Any) -> tuple[str, ...]:
    """The keys of ``{"a": {"b": ...}}``."""
    while isinstance(values, list):
        values = values[0] if values else 0
    if not isinstance(values, dict) or not values:
        return ()
    ((key, inner),) = values.items()
    return (key.replace("-", "_"), *_path(inner))
