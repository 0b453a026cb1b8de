"""JSON that somebody else wrote: read in bounded time and memory, and of the declared kinds before anybody uses it.

    class Card:                      # a dataclass; its __post_init__ may check ranges (ranges.py)
        name: str
        rows: list[int]
    card = foreign_json.read(path, Card)

Fields that the dataclass does not know are left out: a newer version may have written the file. Numbers are taken as
declared (``true`` is no number, 1.0 no whole one), lists become tuples where the dataclass says so.
"""

import errno
import json
import os
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.plain_files import NOT_PLAIN, open_plain

T = TypeVar("T")

DEEPEST = 50
"""Lists and objects inside each other: more is nobody's, and too much for whoever walks through them."""
LARGEST = 256 * 2**20
"""Bytes that a file may have, where the reader says nothing: a manifest of a million tars has about 200 MB."""


class ForeignJsonError(UserError):
    """The file is not what it should be. ``why`` says how, without the file's name."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.why = why


def read(path: Path, kind: type[T], largest: int = LARGEST, inside: Path | None = None) -> T:
    """What stands in the file, as ``kind``.

    Args:
        path: the file. A pipe or a device in its place is refused, not waited for.
        kind: a dataclass, or any type of plain values: ``dict[str, Any]``.
        largest: bytes that it may have.
        inside: a folder above it, out of which no link may lead.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        OSError: it cannot be read.
        ForeignJsonError: it is no JSON, too large, nested too deep, or not of that kind; or a link stands in the way.
    """
    return parse(read_bytes(path, largest, inside), kind, path)


def read_bytes(path: Path, largest: int = LARGEST, inside: Path | None = None, *, first: bool = False) -> bytes:
    """The bytes of a plain file of bounded size, or the ``first`` of a larger one; raises as ``read`` does."""
    try:
        with open_plain(path, inside) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(min(largest - first, size) + 1)  # read allocates as much as it is asked for
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise ForeignJsonError(path, NOT_PLAIN) from error
        if inside is not None and error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise ForeignJsonError(path, "a link, or below one") from error
        raise
    if len(content) > largest:
        raise ForeignJsonError(path, f"over {largest:,} bytes, which is no size for it")
    return content


def parse(content: bytes | str, kind: type[T], path: object) -> T:
    """As ``read``, of bytes that were read from ``path``."""
    try:
        values = json.loads(content)
        if is_deeper(values, DEEPEST):
            raise ForeignJsonError(path, "nested too deep")
        return convert(values, kind, path)
    except RecursionError as error:
        raise ForeignJsonError(path, "nested too deep") from error
    except ValueError as error:  # no JSON, no UTF-8, a number of 5,000 digits
        raise ForeignJsonError(path, f"not JSON ({error})") from error


def convert(values: Any, kind: type[T], path: object) -> T:
    """As ``read``, of plain values: dicts, lists, strings, numbers."""
    try:
        return cast(T, msgspec.convert(values, kind))
    except msgspec.ValidationError as error:
        raise ForeignJsonError(path, _words(str(error))) from error
    except RecursionError as error:
        raise ForeignJsonError(path, "nested too deep") from error


def is_deeper(values: Any, most: int) -> bool:
    """Whether more than so many lists and objects stand inside each other; found without recursion."""
    level = [values]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _words(error: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.shards[0].bytes`" as "shards[0].bytes: expected ..."."""
    what, _, place = error.partition(" - at ")
    words = what.replace("`", "")
    place = place.strip("`").removeprefix("$").removeprefix(".")
    return f"{place}: {words[0].lower()}{words[1:]}" if place else f"{words[0].lower()}{words[1:]}"
