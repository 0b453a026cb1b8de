"""What a person writes to mix sources: ``a:0.7,b:0.3``, or a file.

    # mix.toml: a table for each source, in the order of their ids
    [sources.in1k]
    shards = "/data/in1k"       # a shard folder, or one with train/ inside; an address of a store, too
    weight = 0.7                # its share of the samples, of the sum of all weights

    [sources.places]
    shards = "../places365"     # as seen from the file
    weight = 0.3
    cap = 500_000               # no more samples of it than these, the same in every pass

In place of all weights there may be ``repeats``: how often a source is gone through while the others are as often as
theirs say, so its weight is repeats times its samples.
"""

import os
import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.stores.location import is_address, is_web_host, whole_location

LARGEST_FILE = 2**20
"""Bytes."""
MOST_DOTS = 200
"""Of a line: a key of thousands of parts takes tomllib hours."""
MOST_SOURCES = 1000
LEAST, MOST = Decimal("1e-9"), Decimal("1e9")
"""Of a weight."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST = re.compile(r"https?:/+([^/]*)", re.IGNORECASE)
"""An address without a path; of a ``Path`` that was made of one, one slash is left."""
_KEYS = ("shards", "weight", "repeats", "cap")


@dataclass(frozen=True, kw_only=True, slots=True)
class MixSource:
    """One of the sources that are mixed."""

    name: str
    """What metrics and classes call it."""
    shards: str
    """Shard folder, or one with train/ inside."""
    weight: Fraction | None = None
    """Its share, of the sum of all; None = what ``repeats`` makes it."""
    repeats: Fraction | None = None
    """Passes through it, against those of the others."""
    cap: int | None = None
    """So many of its samples at most; None = all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """What is mixed."""

    text: str
    """As the person wrote it."""
    sources: tuple[MixSource, ...]


def is_mix(text: str) -> bool:
    """Whether somebody means a mixture and no folder; a folder that is called so is one."""
    if os.path.isdir(text):  # noqa: PTH112 - of any text False
        return False
    return text.endswith(".toml") or "," in text or _weighted(text) is not None


def read_mix(text: str) -> Mix:
    """What ``text``, of which ``is_mix`` is true, asks for.

    Raises:
        UserError: it cannot be understood, or there is no such file.
    """
    mix = _of_file(Path(text).expanduser(), text) if text.endswith(".toml") else _of_text(text)
    of_weights = {source.weight is not None for source in mix.sources}
    if len(of_weights) > 1:
        raise UserError(f"data.shards {text}: some sources have weights and some repeats; give all of them the same")
    if len(mix.sources) > MOST_SOURCES:
        raise UserError(f"data.shards {text[:80]}: {len(mix.sources):,} sources; at most {MOST_SOURCES:,} can be mixed")
    return mix


def split_texts(text: str) -> list[tuple[str, str]]:
    """Of ``a:0.7,b:0.3`` places and weights, as they are written.

    Raises:
        UserError: one has no weight.
    """
    found: list[tuple[str, str]] = []
    for part in map(str.strip, text.split(",")):
        if (weighted := _weighted(part)) is None:
            raise UserError(
                f"data.shards {text}: {part or 'an empty source'} has no weight; write FOLDER:0.7,FOLDER:0.3, or name"
                " sources whose names have commas in a mix.toml"
            )
        found.append(weighted)
    return found


def whole_shards(text: str, *, home: bool = False) -> str:
    """``whole_location``, of a mixture too: then of each source, or of its file.

    Raises:
        UserError: a source of a mixture has no weight, or is no address.
    """
    if not is_mix(text) or text.endswith(".toml"):
        return whole_location(text, home=home)
    return ",".join(f"{whole_location(place, home=home)}:{weight}" for place, weight in split_texts(text))


def places_of(text: str) -> list[str]:
    """All folders and addresses that are read for ``data.shards``, and the file that names them.

    Raises:
        UserError: a mixture cannot be understood.
    """
    if not is_mix(text):
        return [text]
    return [*([text] if text.endswith(".toml") else []), *(source.shards for source in read_mix(text).sources)]


def _absolute(place: str, below: Path | None = None) -> str:
    return place if is_address(place) else str(((below or Path()) / Path(place).expanduser()).absolute())


def _at_home(place: str) -> str:
    return place if is_address(place) else str(Path(place).expanduser())


def _weighted(part: str) -> tuple[str, str] | None:
    """Place and weight of ``a:0.7``; None where what stands behind the last colon is no number, or a port."""
    place, colon, weight = part.rpartition(":")
    host = _HOST.fullmatch(part)
    if not colon or not place or "/" in weight or (host and is_web_host(host[1])):
        return None
    try:
        Decimal(weight)
    except InvalidOperation:
        return None
    return place, weight


def _of_text(text: str) -> Mix:
    named = split_texts(text)
    names = _names([place for place, _ in named])
    sources = [
        MixSource(
            name=name, shards=_at_home(place), weight=_number(f"data.shards {text}: the weight of {place}", weight)
        )
        for name, (place, weight) in zip(names, named, strict=True)
    ]
    return Mix(text=text, sources=tuple(sources))


def _names(places: list[str]) -> list[str]:
    """The last parts of the places, as many as tell them apart."""
    parts = [[part for part in re.split(r"[/\\]+", place) if part not in ("", ".", "..")] for place in places]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = [re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(each[-count:]))[-64:].lstrip("_.-") for each in parts]
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"source{number}" for number in range(len(places))]


def _of_file(file: Path, text: str) -> Mix:
    try:
        content = foreign_json.read_bytes(file, LARGEST_FILE).decode("utf-8-sig")
        if any(line.count(".") > MOST_DOTS for line in content.splitlines()):
            raise ValueError(f"a line of more than {MOST_DOTS} dots")
        values = tomllib.loads(content, parse_float=Decimal)
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"data.shards {text}: {error.why}; name a mix.toml, or a shard folder") from error
    except OSError as error:
        raise UserError(f"data.shards {text}: cannot be read ({error.strerror}); write a mix.toml there") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5,000 digits
        said = " ".join(str(error).split())[:200] or "nested too deep"
        raise UserError(
            f"data.shards {text}: not TOML ({said}); write a table [sources.NAME] for each source"
        ) from error
    tables = values.pop("sources", None)
    if values:
        raise UserError(f"{file}: {_short(next(iter(values)))} is unknown; write [sources.NAME] for each source")
    if not isinstance(tables, dict) or not tables:
        raise UserError(f"{file}: no sources; write a table [sources.NAME] for each, with shards and weight")
    sources = [_of_table(f"{file}: sources.{_short(name)}", name, table, file) for name, table in tables.items()]
    return Mix(text=text, sources=tuple(sources))


def _of_table(where: str, name: str, table: Any, file: Path) -> MixSource:
    if NAME.fullmatch(name) is None:
        raise UserError(f"{where}: no name of a source; letters, digits, _ . and -, at most 64, and a letter first")
    if not isinstance(table, dict):
        raise UserError(f"{where}: must be a table with {', '.join(_KEYS)}; write [sources.{name}]")
    if unknown := [key for key in table if key not in _KEYS]:
        raise UserError(f"{where}.{_short(unknown[0])}: is unknown; a source has {', '.join(_KEYS)}")
    shards = table.get("shards")
    if not isinstance(shards, str) or not shards or "\0" in shards:
        raise UserError(f'{where}.shards {_short(shards)}: must be a folder or an address; write shards = "FOLDER"')
    if ("weight" in table) == ("repeats" in table):
        raise UserError(f"{where}: needs either weight or repeats; write weight = 0.5, or repeats = 1")
    cap = table.get("cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise UserError(
            f"{where}.cap {_short(cap)}: must be a whole number of samples, at least 1; leave it out for all"
        )
    shares = {key: _number(f"{where}.{key}", table[key]) for key in ("weight", "repeats") if key in table}
    return MixSource(name=name, shards=_absolute(shards, file.parent), cap=cap, **shares)


def _number(what: str, value: Any) -> Fraction:
    try:
        found = Decimal(value) if type(value) in (int, str, Decimal) else Decimal("NaN")
    except (InvalidOperation, ValueError):
        found = Decimal("NaN")
    if not found.is_finite() or not LEAST <= found <= MOST:
        raise UserError(f"{what}, {_short(value)}: must be a number above 0 (from 1e-9 to 1e9)")
    return Fraction(found)


def _short(value: Any) -> str:
    try:
        return " ".join(str(value).split())[:60]
    except ValueError:  # of thousands of digits
        return "a number of thousands of digits"
