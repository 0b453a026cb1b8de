"""What reaches a terminal: text, and no commands to it. A file's name, a class, a reason may hold any character.

``filter_output`` is called once by every process that a person or a log listens to; from then on everything that is
printed, warned of or logged passes ``printable``. What draws on purpose (bars, tables) uses ``console.Console``.
"""

import contextlib
import io
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

Stream = TextIO | io.TextIOBase

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 but for tab and newline, DEL, C1, separators of lines, what turns the direction of text, halves of characters."""
LONGEST = 2000
"""Characters of a message."""
_STYLE = re.compile("(\x1b\\[[0-9;]*m)")


def printable(text: str) -> str:
    """``text`` with every character that a terminal would obey written as ``\\x1b``; tabs and lines stay."""
    return _COMMANDS.sub(_escaped, text)


def one_line(text: str) -> str:
    """As ``printable``, of a name or a message: it can neither begin a second line nor a column."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def brief(text: str) -> str:
    """A message whose beginning and end are kept, where somebody's name in it has a hundred thousand characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} ... {text[-500:]}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count and what is counted: "1 image", "2,000 images", "2 batches".

    Args:
        count: of them.
        one: what a single one is called.
        many: what several are called, where neither s nor es behind it makes it so.
    """
    if count == 1:
        return f"1 {one}"
    return f"{count:,} {many or one + ('es' if one.endswith(('s', 'x', 'ch', 'sh')) else 's')}"


def filter_output() -> None:
    """From now on what this process prints is ``printable``. A second call does nothing."""
    if not isinstance(sys.stdout, FilteredStream):
        sys.stdout = cast(TextIO, FilteredStream(sys.stdout))
    if not isinstance(sys.stderr, FilteredStream):
        sys.stderr = cast(TextIO, FilteredStream(sys.stderr))


class FilteredStream(io.TextIOBase):
    """A stream before another one, through which text passes as ``printable``, and bytes (``buffer``) as they are.

    A carriage return passes where it can overwrite nothing but a bar of the same kind: at the start of a line.
    Characters that the encoding lacks (``LANG=C``) are escaped as well.

    Args:
        unfiltered: where it goes.
        styled: colours pass, as in a help text.
    """

    def __init__(self, unfiltered: Stream, *, styled: bool = False) -> None:
        self.unfiltered, self._styled = unfiltered, styled
        self._line_is_ours, self._at_start = False, True
        if isinstance(unfiltered, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                unfiltered.reconfigure(errors="backslashreplace")

    def write(self, text: str, /) -> int:
        """Passes the text on; returns its own length."""
        if text:
            self._line_is_ours = text.startswith("\r") and (self._at_start or self._line_is_ours)
            self._at_start = text.endswith("\n")
            shown = f"\r{self._shown(text[1:])}" if self._line_is_ours else self._shown(text)
            self.unfiltered.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Writes one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes the stream behind."""
        self.unfiltered.flush()

    def isatty(self) -> bool:
        """Whether the stream behind is a terminal."""
        return self.unfiltered.isatty()

    def fileno(self) -> int:
        """That of the stream behind."""
        return self.unfiltered.fileno()

    def writable(self) -> bool:
        """It is for writing."""
        return True

    def close(self) -> None:
        """Leaves the stream behind open: it is the process's."""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the stream behind."""
        return self.unfiltered.encoding or "utf-8"

    @property
    def buffer(self) -> Any:
        """For bytes, which are not looked at."""
        return cast(Any, self.unfiltered).buffer

    def _shown(self, text: str) -> str:
        if not self._styled:
            return printable(text)
        return "".join(part if _STYLE.fullmatch(part) else printable(part) for part in _STYLE.split(text))


def unfiltered(stream: Stream) -> Stream:
    """The stream behind those that filter, ours or rich's."""
    while (behind := getattr(stream, "rich_proxied_file", None) or getattr(stream, "unfiltered", None)) is not None:
        stream = cast(Stream, behind)
    return stream


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    # DEL in the form that JSON knows: it is the only one of them that json.dumps leaves as it is.
    return f"\\x{code:02x}" if code < 0x100 and code != 0x7F else f"\\u{code:04x}"
