"""The micro-batches of each step, as they come from the loader."""

from collections.abc import Iterable, Iterator

from eyespot.data_pipeline.loading.loader import Loader
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Engine, MicroBatch
from eyespot.pretrain.families.contrastive_objective import Contrastive
from eyespot.pretrain.loop.gradient_cache import compared
from eyespot.pretrain.loop.schedule import micro_seed
from eyespot.pretrain.loop.step_metrics import StepMeter
from eyespot.pretrain.loop.stop_signals import StopVote
from eyespot.pretrain.networks.sync_batchnorm import RunningStatistics
from eyespot.pretrain.skipped_step import Taken
from eyespot.pretrain.watchdog.rank_watch import RankWatch


class StepCut(Exception):
    """A stop was asked for in the middle of a step of several micro-batches: the step is left undone."""


class StepBatches:
    """Takes them from the loader one by one; between two of them a step can be cut.

    Nothing of a step that is cut or skipped stays: its gradients are dropped, and the running statistics of batch norm,
    which are all that a forward pass changes, go back to where they were. So the state is that of the step before.
    """

    def __init__(
        self,
        run: Run,
        world: World,
        engine: Engine,
        loader: Loader,
        *,
        meter: StepMeter,
        watch: RankWatch,
        stop: StopVote,
    ) -> None:
        self._run, self._world, self._engine, self._loader = run, world, engine, loader
        self._meter, self._watch, self._stop = meter, watch, stop
        self._share = run.data.batch_size // (run.data.accumulate * world.size)
        self._statistics = RunningStatistics(engine.objective)

    def of(self, step: int) -> Iterable[MicroBatch]:
        """One step's; where their rows are compared with each other, after a first look at all of them.

        Raises:
            StepCut: a stop was asked for meanwhile; on all ranks at the same micro-batch.
        """
        self._statistics.keep()
        parts = self._read(step)
        looks_twice = self._run.data.accumulate > 1 and isinstance(self._engine.objective, Contrastive)
        return _let_go(self._cuttable(compared(self._engine, parts)) if looks_twice else parts)

    def undo(self, *, unless: Taken = False) -> None:
        """Puts running statistics back to where they were before the step, unless it was taken."""
        self._statistics.put_back_unless(unless)

    def _cuttable(self, parts: list[MicroBatch]) -> Iterator[MicroBatch]:
        for number, part in enumerate(parts):
            if number:
                self._cut_if_asked()
            yield part

    def _cut_if_asked(self) -> None:
        if self._stop.look()[0]:
            self.undo()
            raise StepCut

    def _read(self, step: int) -> Iterator[MicroBatch]:
        """Each is taken from the loader when the one before has gone through."""
        count = self._run.data.accumulate
        for part in range(count):
            if part:
                self._cut_if_asked()
            self._watch.at("reading data", step + 1)
            batch = next(self._loader)
            if len(batch) != self._share:  # what ``require_equal_batches`` relies on
                raise RuntimeError(f"a micro-batch of {len(batch)} images on this rank, where all have {self._share}")
            waited = self._watch.at("forward and backward")
            self._meter.add(self._run.data.batch_size // count, waited)
            seed = micro_seed(self._run.seed, step, part * self._world.size + self._world.rank)
            yield MicroBatch(batch=batch, seed=seed, last=part == count - 1, num_averaged=count)


def _let_go(parts: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
    """Drops the images of each that has gone through, before the next is waited for: whoever still has it keeps ids."""
    for part in parts:
        yield part
        part.batch.views.clear()
