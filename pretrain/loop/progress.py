"""What a person at the terminal sees of a run: a live bar, or a line now and then where there is no terminal."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.loop.run_data import RunData
from eyespot.pretrain.loop.schedule import effective_rate

log = logging.getLogger("eyespot")

SECONDS_BETWEEN_LINES = 30.0


class TrainingProgress:
    """Loss, images (or what samples are ``counted_as``) per second and time left; shown by rank 0 only."""

    def __init__(self, console: Console, start: int, steps: int, shown: bool, counted_as: str = "images") -> None:
        self._steps, self._shown, self._counted_as = steps, shown, counted_as
        self._start, self._begun, self._last_line = start, time.monotonic(), 0.0
        self._bar = ProgressBar("step", steps, done=start, shown=shown, console=console)
        self._bar.show("loss -")

    def __enter__(self) -> "TrainingProgress":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def advance(self, step: int) -> None:
        """The step that is done."""
        self._bar.reach(step)

    def aside(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A second bar for work between two steps, which is told how much more of it is done."""
        return self._bar.beside(what, total)

    def show(self, step: int, loss: float, images_per_second: float) -> None:
        """The newest figures."""
        self._bar.reach(step)
        self._bar.show(f"loss {loss:.4f}  {images_per_second:,.0f} {self._counted_as}/s")
        now = time.monotonic()
        due = now - self._last_line >= SECONDS_BETWEEN_LINES or step >= self._steps
        if self._shown and not self._bar.live and due:
            self._last_line = now
            left = (now - self._begun) / max(1, step - self._start) * (self._steps - step)
            log.info(
                "step %d/%d  loss %.4f  %.0f %s/s  %.0f min left",
                step,
                self._steps,
                loss,
                images_per_second,
                self._counted_as,
                left / 60,
            )


def announce(data: RunData, recipe: str, num_parameters: int, counted_as: str = "images") -> None:
    """Says at the start what is about to be computed: sizes, epochs, and the learning rate that really applies."""
    run, world, manifest, count = data.run, data.world, data.shards.manifest, data.num_samples
    rate, epochs = effective_rate(run.optim.lr, run.data.batch_size), run.steps * run.data.batch_size / count
    log.info("%s: %s, %.1f M parameters, in %s", recipe, run.encoder.name, num_parameters / 1e6, run.run_dir)
    of = plural(manifest.num_samples, "sample" if manifest.frames else "image")
    of = of if count == manifest.num_samples else f"{count:,} of {of}"
    log.info("data: %s, %s, %.1f epochs in %s", manifest.name, of, epochs, plural(run.steps, "step"))
    log.info(
        "batch %d = %s x %s x %d %s; learning rate %g = %g per 256 %s; %s on %s, engine %s",
        *(run.data.batch_size, plural(world.size, "rank"), plural(run.data.accumulate, "micro-batch")),
        *(run.data.batch_size // world.size // run.data.accumulate, counted_as),
        *(rate, run.optim.lr, counted_as, run.precision, world.device, run.engine),
    )
    if world.cores:
        log.info("rank %d: %s", world.rank, world.cores)
