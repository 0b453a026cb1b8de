"""Console: rich's, for tables and bars. Its drawing reaches the terminal, commands in the text that it draws do not.

Texts are taken as they are: brackets are no markup and ``:car:`` is no picture, for they may be the name of a class.
Colours are given by ``Text`` and styles.
"""

import sys
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from eyespot.data_pipeline.terminal import printable, unfiltered


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel; IPython in a terminal is a terminal."""
    module: Any = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return hasattr(shell, "kernel")


class Console(rich.console.Console):
    """rich's console behind the filter of ``filter_output``, with one of its own.

    Args:
        options: rich's.
    """

    def __init__(self, **options: Any) -> None:
        # Of a notebook rich would make every line an output of its own; and its streams say that they are terminals.
        plain = {"force_jupyter": False, **({"force_terminal": False} if in_notebook() else {})}
        super().__init__(**{**plain, **options}, markup=False, emoji=False)

    @property
    def file(self) -> Any:
        """Where it draws."""
        return unfiltered(self._file or (sys.stderr if self.stderr else sys.stdout))  # pyright: ignore

    @file.setter
    def file(self, new_file: Any) -> None:
        self._file = new_file

    def status(self, status: RenderableType, **options: Any) -> Status:
        """rich's spinner, whose text is no markup either."""
        return super().status(Text(status) if isinstance(status, str) else status, **options)

    def on_broken_pipe(self) -> None:
        """Nobody reads any more: that goes up to the command line, where rich would end the process as failed."""
        self.quiet = True
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """rich's, with the text of every part ``printable``; its own movements of the cursor are no text."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)
