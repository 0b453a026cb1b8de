"""A console's own drawing reaches the terminal; commands inside the text that it draws do not."""

import io
import logging
import re
import sys
from pathlib import Path

from rich.live import Live
from rich.logging import RichHandler
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.terminal import FilteredStream, filter_output

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b]52;c;b3du\x07\x1b[2J\x9b31m\u202e\udcff[/red] [link=x]:car:"
SHOWN = r"\x1b]52;c;b3du"


class Terminal(io.StringIO):
    """As a terminal says of itself."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def opened(monkeypatch) -> Terminal:
    """A terminal as stderr of a command."""
    found = Terminal()
    for name, value in {"TERM": "xterm", "COLUMNS": "150"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(sys, "stdout", Terminal())
    filter_output()
    return found


def foreign(text: str) -> str:
    """What is left without colours and movements of rich's own."""
    return re.sub(r"\x1b\[(\?25[lh]|[0-9;]*m|\d*[A-K])|[\r\n]", "", text)


def draw(console: Console) -> None:
    """Everything that the commands draw with."""
    table = Table("class", HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE, style="bold red"))
    console.print(table)
    console.print(HOSTILE, Panel(HOSTILE))
    with Live(HOSTILE, console=console):
        if console.is_terminal:
            print(HOSTILE, file=sys.stderr)
    with console.status(HOSTILE):
        pass
    with ProgressBar(HOSTILE, 3, console=console) as bar:
        bar.advance()
    handler = RichHandler(console=console, show_path=False, show_time=False)
    handler.handle(handler_record())


def handler_record():
    return logging.LogRecord("eyespot", logging.WARNING, __file__, 1, "name %s", (HOSTILE,), None)


def test_a_terminal_gets_drawings_and_no_command_of_a_stranger(monkeypatch):
    terminal = opened(monkeypatch)
    draw(Console(stderr=True))
    drawn = terminal.getvalue()
    assert "\x1b[1;31m" in drawn and "\x1b[?25l" in drawn  # the colours and the hidden cursor are ours
    assert foreign(drawn).isprintable() and drawn.count(SHOWN) >= 7
    assert "[link=x]:car:" in drawn


def test_a_file_gets_plain_text():
    file = io.StringIO()
    draw(Console(file=FilteredStream(file), width=150))
    assert file.getvalue().replace("\n", "").isprintable() and SHOWN in file.getvalue()


def test_nobody_draws_past_it():
    """Every console of the package is this one."""
    own = {"data_pipeline/console.py"}
    for folder in ("data_pipeline", "pretrain", "eval", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            if str(path.relative_to(ROOT)) not in own:
                assert not re.search(
                    r"rich\.console import .*\bConsole\b|rich import (print|get_console)", path.read_text()
                )
