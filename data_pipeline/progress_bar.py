"""A progress bar for people: drawn where a person looks on, in a terminal or a notebook, and nowhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from eyespot.data_pipeline.terminal import printable

if TYPE_CHECKING:  # drawing takes a while to import, and the processes that only count have no need of it
    from rich.progress import Progress, Task

    from eyespot.data_pipeline.console import Console

SECONDS_BETWEEN_DRAWINGS = 0.5
"""In a notebook, whose browser draws each anew."""


class ProgressBar:
    """A live bar, for the time of a with statement.

    Args:
        description: what is being done.
        total: how much there is to do; None = not known yet.
        done: how much of it is done already.
        unit: "items" are counted, with the time that is left; of "bytes" sizes and speed are shown.
        transient: it vanishes at the end.
        shown: False draws nothing, as on all ranks but the first.
        console: where it is drawn; None = standard error. One that is no terminal gets nothing.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        *,
        done: int = 0,
        unit: Literal["items", "bytes"] = "items",
        transient: bool = False,
        shown: bool = True,
        console: "Console | None" = None,
    ) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        from eyespot.data_pipeline.console import Console, in_notebook

        console = console or Console(stderr=True)
        self.live = shown and (in_notebook() or console.is_terminal)
        """Somebody sees it."""
        name, figures = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[figures]}")
        if unit == "bytes":
            columns = name, BarColumn(), DownloadColumn(), TransferSpeedColumn()
        else:
            columns = name, BarColumn(), MofNCompleteColumn(), figures, TimeRemainingColumn()
        self._progress = Progress(
            *columns, console=console, transient=transient, disable=not (shown and console.is_terminal)
        )
        self._task = self._progress.add_task(description, total=total, completed=done, figures="")
        self._output = _NotebookOutput(self._progress, transient) if shown and in_notebook() else None

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._output is not None:
            self._output.end()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self._progress.advance(self._task, count)
        self._draw()

    def reach(self, done: int, total: int | None = None) -> None:
        """So much is done in all, perhaps of a new total."""
        self._progress.update(self._task, completed=done, total=total)
        self._draw()

    def describe(self, description: str) -> None:
        """What is being done from now on."""
        self._progress.update(self._task, description=description)
        self._draw()

    def show(self, figures: str) -> None:
        """Text beside the counts, such as the loss."""
        self._progress.update(self._task, figures=figures)
        self._draw()

    @contextmanager
    def beside(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """A second bar, for work in the midst of the first's."""
        task = self._progress.add_task(description, total=total, figures="")

        def advance(count: int) -> None:
            self._progress.advance(task, count)
            self._draw()

        try:
            yield advance
        finally:
            self._progress.remove_task(task)

    def _draw(self) -> None:
        if self._output is not None:
            self._output.draw()


@contextmanager
def working(what: str, *, shown: bool = True) -> Iterator[None]:
    """Tells a person at a terminal what takes so long, on standard error; nobody else.

    Args:
        what: is being done.
        shown: False says nothing, as on all ranks but the first.
    """
    from eyespot.data_pipeline.console import Console

    console = Console(stderr=True)
    with console.status(what) if shown and console.is_terminal else nullcontext():
        yield


class _NotebookOutput:
    """One output of a notebook's cell, which is drawn anew as things go on.

    Args:
        progress: what is drawn.
        transient: it is empty at the end.
    """

    def __init__(self, progress: "Progress", transient: bool) -> None:
        self._progress, self._transient = progress, transient
        self._handle: Any = None
        self._drawn = time.monotonic() if transient else 0.0  # what is over at once is not shown at all

    def draw(self, last: bool = False) -> None:
        """Shows how far it is, if that was not shown just now."""
        now = time.monotonic()
        if now - self._drawn < SECONDS_BETWEEN_DRAWINGS and not last:
            return
        self._drawn = now
        tasks = [] if last and self._transient else self._progress.tasks
        shown = {
            "text/plain": "\n".join(map(_said, tasks)),
            "text/html": "".join(f"<div>{_drawn(task)} {escape(_said(task))}</div>" for task in tasks),
        }
        if self._handle is not None:
            self._handle.update(shown, raw=True)
        elif not (last and self._transient):
            from IPython.display import display

            self._handle = display(shown, raw=True, display_id=True)

    def end(self) -> None:
        """Shows the last of it."""
        self.draw(last=True)


def _said(task: "Task") -> str:
    of = f"/{task.total:,.0f}" if task.total else ""
    figures = task.fields.get("figures", "")
    left = f"  {task.time_remaining:,.0f} s left" if task.time_remaining else ""
    return printable(f"{task.description} {task.completed:,.0f}{of}  {figures}{left}".rstrip())


def _drawn(task: "Task") -> str:
    if not task.total:
        return ""
    name = escape(printable(task.description))
    return f'<progress aria-label="{name}" value="{task.completed:.0f}" max="{task.total:.0f}"></progress>'
