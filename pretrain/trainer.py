"""The training loop, the only one. It knows Objective, Engine, Loader, Tracker and Checkpoint, and no method."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.loader import make_loader
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.config import Run, engine_settings, optim_settings
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.distributed.collectives import agreed
from eyespot.pretrain.engine import make_engine
from eyespot.pretrain.images.image_grid import write_picture
from eyespot.pretrain.loop.feature_refresh import Refresh
from eyespot.pretrain.loop.first_checks import before_folder
from eyespot.pretrain.loop.initial_weights import first_objective
from eyespot.pretrain.loop.progress import TrainingProgress, announce
from eyespot.pretrain.loop.run_data import Opened, open_data, pictured_batch
from eyespot.pretrain.loop.run_end import REFUSALS, TrainingError, in_words, last_word
from eyespot.pretrain.loop.run_folder import RunFolder
from eyespot.pretrain.loop.schedule import due, rate_at
from eyespot.pretrain.loop.step_batches import StepBatches, StepCut
from eyespot.pretrain.loop.step_metrics import StepLog, StepMeter, StepRecord
from eyespot.pretrain.loop.stop_signals import StopSignals, StopVote
from eyespot.pretrain.monitors.collapse import HeadWatch
from eyespot.pretrain.monitors.monitor import MonitorOf, looks_of
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.planning import out_of_memory
from eyespot.pretrain.planning.utilization import Utilization
from eyespot.pretrain.watchdog.rank_watch import RankFailure, RankWatch

log = logging.getLogger("eyespot")

Outcome = Literal["done", "stopped"]
AtEnd = Callable[[process_group.World], None]


def fit(
    run: Run, recipe: str, monitors: Sequence[MonitorOf] = (), then: AtEnd | None = None, shards: Opened = None
) -> Outcome:
    """Trains to the end or a signal; ``monitors`` look every ``run.monitor_every`` steps, ``then`` once all is done.

    The run's ``shards`` are opened unless they are already.

    Raises:
        UserError: the run's settings, data or folder are wrong.
        TrainingError: the loss stays not finite, or checkpoints cannot be written.
    """
    console = Console(stderr=True)
    world = process_group.start(run.device, run.rank_timeout_seconds, deterministic=run.deterministic)
    signals = StopSignals()
    folder: RunFolder | None = None
    try:
        with agreed():
            shards = before_folder(run, world, shards)
            folder = RunFolder(run, recipe, world.rank)
        folder.start_logging(console)
        with RankWatch(world, folder.path / "logs", run.rank_timeout_seconds) as watch:
            outcome = Trainer(run, recipe, world, folder, signals, watch, monitors, shards).fit(console)
        if then is not None and outcome == "done":
            then(world)
        return outcome
    except BaseException as error:
        if folder is not None and log.handlers:  # in the log, once it has begun; the command says it at the terminal
            known = isinstance(error, UserError | Outage | TrainingError | RankFailure)
            kind = "" if known else f"{type(error).__name__}: "
            log.error("stopped: %s%s", kind, error, exc_info=not known, extra={"file_only": True})
        raise
    finally:
        if folder is not None:
            folder.close()
        signals.close()
        process_group.stop()


class Trainer:
    """One run: set up, then ``fit``."""

    def __init__(
        self,
        run: Run,
        recipe: str,
        world: process_group.World,
        folder: RunFolder,
        signals: StopSignals,
        watch: RankWatch,
        monitors: Sequence[MonitorOf],
        shards: Opened,
    ) -> None:
        self.run, self.world, self.folder, self.signals, self.watch = run, world, folder, signals, watch
        with agreed():  # the data, and what learns from them
            data = open_data(run, world, shards)
            objective = first_objective(run, data.sample_ids)
            data.check_objective(objective)
            spec = data.loader_spec(objective.views())
        num_parameters = sum(p.numel() for p in objective.parameters())
        with out_of_memory.in_words(run, world), agreed():  # how a step of it runs
            settings, optim = engine_settings(run, world.size), optim_settings(run)
            self.engine = make_engine(run.engine, objective, world, lambda m: make_optimizer(m, optim), settings)
        self.writer = CheckpointWriter(run.run_dir, keep=run.keep_checkpoints, timeout_seconds=run.rank_timeout_seconds)
        last = checkpoint.restore(run.run_dir, run.resume, self.engine.load_tensors)
        self.start, position = (last.step, last.loader) if last is not None else (0, None)
        self.done = self.start
        with out_of_memory.in_words(run, world), agreed():  # the stream of batches, from there on
            self.pictured = pictured_batch(spec, world) if run.picture_every else None
            self.loader = make_loader(data.training_spec(spec, objective), world.rank, world.size, position)
        self.views, self.position = spec.views, self.loader.state_dict()
        self.refresh = Refresh(data, self.engine.objective, spec, watch)
        self.engine.objective.notes_losses, manifest = self.loader.sources is not None, data.shards.manifest
        folder.write_record(run, recipe, objective, self.views, data.shards, world.size, self.position)
        self.tracker = folder.open_tracker(run, recipe, manifest, world.size) if world.rank == 0 else None
        watch.on_event = self.tracker.event if self.tracker is not None else watch.on_event
        if not run.cuda_graph:  # a graph's launch runs no hook
            watch.time_forward(self.engine.objective)
        self.meter, self.vote = StepMeter(world.device, Utilization.of(run, world)), StopVote(signals)
        self.skipped, self.lost = 0, None
        looks = looks_of(monitors, data, self.engine, self.start)
        parts = {"meter": self.meter, "watch": watch}
        self.metrics = StepLog(run, self.loader, self.tracker, position, looks, HeadWatch(), **parts)
        self.batches = StepBatches(run, world, self.engine, self.loader, stop=self.vote, **parts)
        announce(data, recipe, num_parameters, self.views.counted_as)

    def fit(self, console: Console) -> Outcome:
        """The loop. Closes the tracker with how it ended."""
        status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
        try:
            counted_as, shown = self.views.counted_as, self.world.rank == 0
            shown = TrainingProgress(console, self.start, self.run.steps, shown, counted_as)
            fitting = out_of_memory.in_words(self.run, self.world)
            with shown as progress, self.watch.explained(), fitting, self.metrics.last_words(progress):
                outcome = self._loop(progress)
            status = "FINISHED" if outcome == "done" else "KILLED"
            return outcome
        except OSError as error:
            if (lost := self.folder.lost(0.0)) is None and error.errno not in REFUSALS:
                raise
            raise TrainingError(lost or in_words(error)) from error
        finally:
            self.writer.close()
            self.loader.close()
            self.engine.close()
            if self.tracker is not None:
                self.tracker.close(status)

    def _loop(self, progress: TrainingProgress) -> Outcome:
        run, engine = self.run, self.engine
        last = min(run.steps, run.stop_after or run.steps)
        self.meter.restart()
        for step in range(self.start, last):
            self.refresh(step, progress)  # clusters: before the first step, and every few epochs
            passed = StepRecord(step)
            try:
                for part in self.batches.of(step):
                    scalars = engine.forward(part)  # 1. forward, backward
                    engine.backward(scalars["loss"] / part.num_averaged)
                    passed.add(part.batch, scalars, engine.objective.sample_losses)
            except StepCut:
                engine.discard()
                engine.objective.after_skip()
                self._settle(progress)
                self._save(must_work=True)
                return self._stopped()
            self._settle(progress)  # what came of the step before, where the device says so while it is at this one
            self.watch.at("optimiser")
            rate, done = rate_at(step, run), step + 1
            logged = due(done, run.log_every) or due(done, run.monitor_every) or done == last
            pictured = self.pictured is not None and (due(done, run.picture_every) or done == run.steps)
            saved = due(done, run.save_every) or done == last
            self.lost = self.lost or self.folder.lost()
            stop, lost = self.vote.look(lost=self.lost is not None, at_once=logged or pictured or saved)
            norm, taken = engine.step(rate, passed.finite(), step / run.steps)  # 2. clip, optimise
            self.batches.undo(unless=taken)
            passed.close(norm, taken, logged=logged)
            if taken is False:
                engine.objective.after_skip()
                self._skip(passed)
            else:
                engine.objective.finish_step(done, run.steps, taken)  # 3. teacher, queue, average
            self.done, self.position = done, self.loader.state_dict()
            if lost:
                self._save_what_is_left()
            self.metrics.note(passed, rate, logged=logged)
            if not passed.is_late or pictured or saved or stop or due(done, run.monitor_every):
                self._settle(progress)
            if pictured:
                self._picture(done)
            if saved or stop:
                self._save(must_work=stop or done == last)
            progress.advance(done)
            if stop and done < run.steps:
                return self._stopped()
        log.info("%s", last_word(max(self.start, last), run.steps))
        return "done"

    def _stopped(self) -> Outcome:
        log.info("stopped by %s after step %d; go on with --resume auto", self.signals.received, self.done)
        return "stopped"

    def _save_what_is_left(self) -> None:
        """Somebody has taken a file away from under the run, or all of its folder, which is not made again."""
        if self.folder.path.is_dir():
            self._save(must_work=True)
        raise TrainingError(self.lost or "rank 0 has lost its run folder")

    def _skip(self, passed: StepRecord) -> None:
        """A step whose loss or gradient is not finite was dropped; too many in a row stop the run, with the ids."""
        self.skipped += 1
        blamed = f"(gradient norm {passed.grad_norm}); sample ids {passed.guilty_ids()}"
        what = f"step {passed.step + 1}: loss or gradient is not finite {blamed}"
        if self.skipped <= self.run.max_skipped_steps:
            log.warning("%s; step skipped", what)
            return
        if passed.is_late:
            self.batches.undo()  # the step that is under way
        self.engine.discard()
        self.engine.objective.after_skip()
        self._save(must_work=False)
        raise TrainingError(f"{what}; the checkpoint of step {self.done} is the last good one")

    def _settle(self, progress: TrainingProgress) -> None:
        """Sees what came of the last step. All ranks call it at the same places."""
        passed = self.metrics.settle(progress)
        if passed is not None and passed.was_taken:
            self.skipped = 0
        elif passed is not None and passed.is_late:
            self._skip(passed)

    def _picture(self, step: int) -> None:
        with self.engine.averaged(), at_rest(self.engine.objective):  # as evaluation sees it, and nothing stays of it
            picture = self.engine.objective.picture(self.pictured) if self.pictured is not None else None
        if picture is not None and self.tracker is not None:
            path = self.folder.path / "pictures" / f"step-{step:08d}.png"
            write_picture(picture, self.views, path)
            self.tracker.picture(path)

    def _save(self, *, must_work: bool) -> None:
        """Hands a checkpoint to the writer. One that cannot be written leaves the last good one."""
        self.watch.at("saving")
        run, run_key = self.run, self.folder.run_key
        place = self.position | self.metrics.replaced.state()
        where = {"step": self.done, "loader": place, "world_size": self.world.size}
        meta = checkpoint.Meta(**where, run_key=run_key, engine=run.engine, precision=run.precision)
        try:
            self.writer.save(self.engine.save_tensors(), meta, wait=must_work)
        except OSError as error:
            raise TrainingError(self.folder.lost(0.0) or str(error)) from error
