"""What one line of metrics.jsonl says, and when it can be said."""

import hashlib
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.loader import Loader
from eyespot.data_pipeline.loading.mixtures.stream_order import SourceCounts
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.collectives import all_ranks, in_batch_order, rank_sum
from eyespot.pretrain.loop.progress import TrainingProgress
from eyespot.pretrain.loop.schedule import due
from eyespot.pretrain.skipped_step import Taken
from eyespot.pretrain.tracking.tracker import Tracker
from eyespot.pretrain.watchdog.rank_watch import RankWatch


class StepMeter:
    """Measures the steps between two logged ones, and gathers what all ranks know.

    Args:
        device: of this rank.
        of_throughput: further metrics that follow from the images per second over all ranks.
    """

    def __init__(self, device: torch.device, of_throughput: Callable[[float], dict[str, float]] = lambda _: {}) -> None:
        self._device, self._of_throughput = device, of_throughput
        self.restart()

    def restart(self) -> None:
        """Begins a new interval now."""
        self._images, self._waited, self._begun = 0, 0.0, time.monotonic()

    def add(self, images: int, waited: float) -> None:
        """A step of so many images, over all ranks, that waited so many seconds for data."""
        self._images += images
        self._waited += waited

    def close_interval(self) -> dict[str, float]:
        """Throughput over all ranks and the share of time that this rank waited for data; restarts the interval."""
        elapsed = max(1e-9, time.monotonic() - self._begun)
        values = {
            "images_per_second": round(self._images / elapsed, 2),
            "data_wait_share": round(self._waited / elapsed, 5),
            "peak_memory_gb": round(self._peak_memory_gb(), 3),
            **self._of_throughput(self._images / elapsed),
        }
        self.restart()
        return values

    def _peak_memory_gb(self) -> float:
        """Of the device where it is a GPU, else of this process, since it began."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class ReplacedSamples:
    """Samples of the run so far, over all ranks: those that stand in for damaged ones, and those that the GPU would not
    decode; of a mixture also the former of each source.

    Args:
        loader: of this rank.
        state: what was known when the run was left; of other ranks, too, and None = it begins.
    """

    def __init__(self, loader: Loader, state: Mapping[str, int] | None) -> None:
        self._loader, self._sources = loader, loader.sources.names if loader.sources else ()
        self._keys = ["bad_samples", "refused_samples", *(f"bad_of_{number}" for number in range(len(self._sources)))]
        self._before = torch.tensor([(state or {}).get(key, 0) for key in self._keys])
        self._own = torch.zeros_like(self._before)

    def note(self) -> None:
        """A step is over: what came with its samples counts."""
        of_sources = self._loader.sources.bad.tolist() if self._loader.sources else []
        self._own = torch.tensor([self._loader.bad_samples, self._loader.refused_samples, *of_sources])

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps. Every rank calls it."""
        return dict(zip(self._keys, (self._before + rank_sum(self._own)).tolist(), strict=True))

    def told(self) -> dict[str, int]:
        """For a line of metrics; those that the GPU refused where there are any. Every rank calls it."""
        bad, refused, *of_sources = self.state().values()
        told = {f"data/source/{name}/bad": count for name, count in zip(self._sources, of_sources, strict=True)}
        return {"bad_samples": bad, **({"refused_samples": refused} if refused else {}), **told}


class HostCopy:
    """A copy on the CPU of what a device has yet to compute; nobody waits for it before it is read."""

    def __init__(self, tensor: Float64[Tensor, " n"]) -> None:
        self._copy = tensor.to("cpu", non_blocking=True)  # into pinned memory
        self._arrived = torch.cuda.Event() if tensor.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    @property
    def is_there(self) -> bool:
        """Whether to read it takes no time."""
        return self._arrived is None or self._arrived.query()

    def read(self) -> Float64[Tensor, " n"]:
        """The numbers, once the device has got so far."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy


class StepRecord:
    """What one step met on this rank: its micro-batches' samples, their scalars, and what came of it.

    Until ``close`` nothing of it leaves the device. What is asked afterwards is waited for; where the engine lets the
    device decide (``is_late``), that is best done when the next step is under way.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        """How many had gone before."""
        self.line: dict[str, Any] | None = None
        """What else the step's line of metrics says; None = it has none."""
        self._ids: list[Tensor] = []
        self._rows: list[dict[str, Tensor]] = []
        self._losses: list[Tensor] = []

    def add(self, batch: Batch, scalars: dict[str, Tensor], losses: Tensor | None = None) -> None:
        """A micro-batch that has gone through, what the objective said of it, and of each sample its loss, if known."""
        self._ids.append(batch.ids)
        if losses is not None:
            self._losses.append(losses)
        self._rows.append({name: scalar.detach() for name, scalar in scalars.items()})

    @cached_property
    def _scalars(self) -> Float64[Tensor, "micro_batches names"]:
        return torch.stack([torch.stack([value.double() for value in row.values()]) for row in self._rows])

    def finite(self) -> Bool[Tensor, ""]:
        """Whether all scalars of all ranks are, on the device. All ranks call it."""
        return all_ranks(self._scalars.isfinite().all())

    def close(self, norm: float | Tensor, taken: Taken, *, logged: bool) -> None:
        """The step is over. All ranks call it.

        Args:
            norm: of the gradient.
            taken: whether the step was.
            logged: ``means`` will be asked.
        """
        self._norm, self.taken, self.is_late = norm, taken, not isinstance(taken, bool)
        everybody = in_batch_order(self._scalars[:, None]) if logged else self._scalars[:0]
        losses = in_batch_order(torch.stack(self._losses).double()) if logged and self._losses else self._scalars[:0, 0]
        self._sizes = [self._scalars.numel(), everybody.numel(), losses.numel()]
        told = [self._scalars.flatten(), everybody.flatten(), losses]
        if isinstance(norm, Tensor) and isinstance(taken, Tensor):
            told += [norm.double()[None], taken.double()[None]]
        self._copy = HostCopy(torch.cat(told))

    @property
    def is_there(self) -> bool:
        """Whether nobody has to wait for what came of it."""
        return self._copy.is_there

    @property
    def was_taken(self) -> bool:
        """Whether the step was."""
        return bool(self._copy.read()[-1]) if self.is_late else bool(self.taken)

    @property
    def grad_norm(self) -> float:
        """Of the whole gradient, before it was clipped."""
        return self._copy.read()[-2].item() if self.is_late else float(self._norm)

    def means(self) -> dict[str, float]:
        """Means of the scalars over the global batch.

        Summed in the order of the global batch, so that ranks and accumulation give the same digits.
        """
        begin, count, _ = self._sizes
        everybody = self._copy.read()[begin : begin + count].unflatten(0, (-1, self._scalars.shape[1]))
        return dict(zip(self._rows[0], everybody.mean(dim=0).tolist(), strict=True))

    def digest(self) -> str:
        """sha256[:16] of the ids of the global batch's samples in order, as little-endian int64. All ranks call it."""
        return hashlib.sha256(self._all_ids.numpy().astype("<i8").tobytes()).hexdigest()[:16]

    @cached_property
    def _all_ids(self) -> Int[Tensor, " n"]:
        """Of the global batch's samples, in order. All ranks ask for the first time at once."""
        return in_batch_order(torch.stack(self._ids))

    def losses_of(self, sources: SourceCounts) -> dict[str, float]:
        """The mean loss of each source's samples in the global batch, after ``digest``; none where samples have none.

        Summed in the order of the global batch, as ``means``.
        """
        begin, size = sum(self._sizes[:2]), self._sizes[2]
        if not size:
            return {}
        losses = self._copy.read()[begin : begin + size].numpy()
        numbers = sources.shards.source_numbers(self._all_ids.numpy())
        counts = sources.shards.per_source(self._all_ids.numpy())
        sums = np.bincount(numbers, losses, len(counts))
        told = zip(sources.names, sums.tolist(), counts.tolist(), strict=True)
        return {f"train/source/{name}/loss": total / count for name, total, count in told if count}

    def guilty_ids(self) -> list[int]:
        """Sample ids of the micro-batches, on all ranks, whose scalars are not finite; of all where none is."""
        scalars = self._copy.read()[: self._sizes[0]].unflatten(0, (len(self._rows), -1))
        broken = ~scalars.isfinite().all(dim=1, keepdim=True)
        rows = in_batch_order(torch.cat([broken.long(), torch.stack(self._ids)], dim=1)[:, None])
        guilty = rows[rows[:, 0] > 0] if bool(rows[:, 0].any()) else rows
        return guilty[:, 1:].flatten().tolist()


class StepLog:
    """Writes a line of metrics for each logged step, when it is known what came of it.

    Where the engine lets the device decide, that is a step later; so the last step is kept ``open`` until ``settle``.

    Args:
        run: which steps are logged and monitored.
        loader: of the run.
        tracker: takes the lines; None = another rank's does.
        state: what a checkpoint has of the loader's; None = the run begins.
        monitors: each gives further metrics at monitored steps.
        head_watch: sees each line before it is written.
        meter: of the steps.
        watch: knows where the time went.
    """

    def __init__(
        self,
        run: Run,
        loader: Loader,
        tracker: Tracker | None,
        state: Mapping[str, int] | None,
        monitors: list[Callable[[], dict[str, float]]],
        head_watch: Callable[[int, dict[str, Any]], None],
        *,
        meter: StepMeter,
        watch: RankWatch,
    ) -> None:
        self.replaced = ReplacedSamples(loader, state)
        self._run, self._loader, self._tracker, self._monitors = run, loader, tracker, monitors
        self._head_watch, self._meter, self._watch = head_watch, meter, watch
        self._open: StepRecord | None = None

    def note(self, passed: StepRecord, rate: float, *, logged: bool) -> None:
        """A step that is closed, and with which learning rate it was taken. All ranks call it."""
        self._open = passed
        self.replaced.note()
        if not logged:
            return
        self._watch.at("logging")
        step, batch_size = passed.step + 1, self._run.data.batch_size
        passed.line = {
            "lr": rate,
            "grad_norm": 0.0,  # its place; the device may have to tell it
            "samples_seen": step * batch_size,
            "epoch": round(step * batch_size / self._loader.num_samples, 4),
            "sample_digest": passed.digest(),
            **self.replaced.told(),
            **(self._loader.sources.told(step * batch_size) if self._loader.sources else {}),
            **self._throughput(),
            **self._watch.close_interval(),
        }
        if due(step, self._run.monitor_every):
            self._watch.at("monitor")
            for monitor in self._monitors:
                passed.line |= monitor()
            self._meter.restart()

    def _throughput(self) -> dict[str, float]:
        """What the meter knows; of samples that are clips, how many of their frames were seen, too."""
        values, frames = self._meter.close_interval(), self._loader.num_frames
        return (
            values if frames == 1 else {**values, "frames_per_second": round(values["images_per_second"] * frames, 2)}
        )

    def settle(self, progress: TrainingProgress) -> StepRecord | None:
        """The open step, if there is one, whose line is written now."""
        passed, self._open = self._open, None
        if passed is not None and passed.line is not None:
            sources = self._loader.sources
            of_sources = passed.losses_of(sources) if sources is not None else {}
            values = {**passed.means(), **of_sources, **passed.line, "grad_norm": passed.grad_norm}
            if self._tracker is not None:
                self._head_watch(passed.step + 1, values)
                self._tracker.log(passed.step + 1, values)
            progress.show(passed.step + 1, values["loss"], values["images_per_second"])
        return passed

    @contextmanager
    def last_words(self, progress: TrainingProgress) -> Iterator[None]:
        """Around the loop: when it breaks off, the open step's line is written, if nobody has to be waited for."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # a device that is broken breaks on each question anew
                if self._open is not None and self._open.is_there:
                    self.settle(progress)
            raise
