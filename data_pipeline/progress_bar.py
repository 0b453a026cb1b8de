"""A progress bar for people: drawn where a person looks on, and nowhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # drawing takes a while to import, and the processes that only count have no need of it
    from eyespot.data_pipeline.console import Console


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

        from eyespot.data_pipeline.console import Console

        console = console or Console(stderr=True)
        self.live = shown and console.is_terminal
        """Somebody sees it."""
        name, figures = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[figures]}")
        if unit == "bytes":
            columns = name, BarColumn(), DownloadColumn(), TransferSpeedColumn()
        else:
            columns = name, BarColumn(), MofNCompleteColumn(), figures, TimeRemainingColumn()
        self._progress = Progress(*columns, console=console, transient=transient, disable=not self.live)
        self._task = self._progress.add_task(description, total=total, completed=done, figures="")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self._progress.advance(self._task, count)

    def reach(self, done: int, total: int | None = None) -> None:
        """So much is done in all, perhaps of a new total."""
        self._progress.update(self._task, completed=done, total=total)

    def describe(self, description: str) -> None:
        """What is being done from now on."""
        self._progress.update(self._task, description=description)

    def show(self, figures: str) -> None:
        """Text beside the counts, such as the loss."""
        self._progress.update(self._task, figures=figures)

    @contextmanager
    def beside(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """A second bar, for work in the midst of the first's."""
        task = self._progress.add_task(description, total=total, figures="")
        try:
            yield lambda count: self._progress.advance(task, count)
        finally:
            self._progress.remove_task(task)


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
