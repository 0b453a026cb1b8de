"""BatchMaker: ids in, batches out. Reads ahead, feeds DALI, repairs what cannot be decoded."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from threadpoolctl import threadpool_limits
from torch import Tensor

from eyespot.data_pipeline.augment.crop_geometry import Geometry, view_geometry
from eyespot.data_pipeline.augment.pipeline import Alteration, view_alteration
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading import dali_graphs
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.reader import File, Reader, Reading
from eyespot.data_pipeline.loading.resize import Buffers, fill_borders, finish_views, resize_views

Ids = Int64[np.ndarray, " b"]

READ_AHEAD = 3
"""Batches whose files are being read while earlier ones are decoded."""
FEW_SAMPLES = 1000
"""Damage is judged as a share of at least this many samples, so that one bad file among the first ten stops nothing."""


@dataclass(kw_only=True, slots=True)
class _Job:
    """One batch on its way."""

    wanted: Ids
    epochs: Ids
    ids: Ids
    """What was read: ``wanted``, or what stands in for damaged samples."""
    files: list[File]
    geometry: list[Geometry]
    alterations: list[Alteration | None]
    labels: Ids


class BatchMaker:
    """Turns planned ids into batches. One thread at a time may use it."""

    def __init__(
        self,
        reader: Reader,
        plan: Iterable[tuple[Ids, Ids]],
        views: ViewSpec,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        num_threads: int,
        max_bad_fraction: float,
        labeled: Bool[np.ndarray, " n"] | None = None,
    ):
        """Starts nothing yet.

        Args:
            reader: of the files.
            plan: the ids and epochs of each batch.
            views: what to make of each image.
            batch_size: the most samples that a batch of the plan holds.
            seed: of the random crops.
            device: where to decode and where the views lie.
            num_threads: that decode and resize.
            max_bad_fraction: share of damaged samples above which making stops.
            labeled: of each sample of the index, whether its label is shown; None = all are.
        """
        self._reader, self._views, self._seed, self._device = reader, views, seed, device
        self._batch_size, self._num_threads, self._max_bad_fraction = batch_size, num_threads, max_bad_fraction
        self._labeled = labeled
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers = Buffers()
        self._pool = ThreadPoolExecutor(num_threads, "eyespot-views", _one_openmp_thread)
        self._jobs = self._read_ahead(iter(plan))
        self._running: deque[_Job] = deque()
        self._again: deque[_Job] = deque()
        self._num_made = self._num_bad = 0

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        """Yields each batch, and how many of its samples stand in for damaged ones.

        Raises:
            UserError: too many samples are damaged.
        """
        pipeline = self._pipeline()
        while True:
            try:
                outputs = pipeline.run()
            except StopIteration:
                return
            except (RuntimeError, MemoryError) as error:
                self._repair(error)
                pipeline = self._pipeline()
                continue
            job = self._running.popleft()
            num_bad = int((job.ids != job.wanted).sum())
            self._num_made += len(job.ids)
            self._num_bad += num_bad
            self._stop_if_too_bad(self._num_bad)
            yield self._batch(job, outputs), num_bad

    def close(self) -> None:
        """Ends all threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def _read_ahead(self, plan: Iterator[tuple[Ids, Ids]]) -> Iterator[_Job]:
        reading: deque[tuple[Ids, Ids, Reading]] = deque()
        for wanted, epochs in plan:
            reading.append((wanted, epochs, self._reader.start(wanted)))
            if len(reading) > READ_AHEAD:
                yield self._job(*reading.popleft())
        while reading:
            yield self._job(*reading.popleft())

    def _job(self, wanted: Ids, epochs: Ids, reading: Reading) -> _Job:
        ids, files = reading.result()
        rows = self._reader.index[ids]
        image_sizes = np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32)
        geometry = [
            view_geometry(view, f"view{number}", self._seed, epochs, ids, image_sizes)
            for number, view in enumerate(self._views.views)
        ]
        alterations = [
            view_alteration(view, f"view{number}", self._seed, epochs, ids)
            for number, view in enumerate(self._views.views)
        ]
        labels = rows["label"].astype(np.int64)
        if self._labeled is not None:
            labels[~self._labeled[ids]] = -1
        return _Job(
            wanted=wanted,
            epochs=epochs,
            ids=ids,
            files=files,
            geometry=geometry,
            alterations=alterations,
            labels=labels,
        )

    def _pipeline(self) -> Any:
        options: dict[str, int] = dict(batch_size=self._batch_size, num_threads=self._num_threads)
        if self._device.type == "cpu":
            return dali_graphs.crop_pipeline(self._views, self._next_inputs, **options)
        return dali_graphs.view_pipeline(self._views, self._next_inputs, device_id=self._device.index or 0, **options)

    def _next_inputs(self) -> list[Any]:
        """What DALI calls when it is ready for another batch."""
        job = self._again.popleft() if self._again else next(self._jobs)
        self._running.append(job)
        if self._device.type == "cpu":
            return dali_graphs.crop_inputs(job.files, job.geometry)
        return dali_graphs.view_inputs(self._views, job.files, job.geometry)

    def _batch(self, job: _Job, outputs: Any) -> Batch:
        if self._stream is not None:
            # On a stream of its own, so as not to wait for the trainer's; ready for every stream once it is through.
            with torch.cuda.stream(self._stream):
                views, labels = self._gpu_views(job, outputs), torch.from_numpy(job.labels).to(self._device)
            self._stream.synchronize()
        else:
            views, labels = self._cpu_views(job, outputs), torch.from_numpy(job.labels)
        ids, epochs = torch.from_numpy(job.ids), torch.from_numpy(job.epochs)
        return Batch(views=views, ids=ids, epochs=epochs, labels=labels, seed=self._seed)

    def _gpu_views(self, job: _Job, outputs: Any) -> list[Tensor]:
        """Copies, which DALI cannot overwrite."""
        made: list[Tensor] = []
        for geometry, alteration, output in zip(job.geometry, job.alterations, outputs, strict=True):
            pixels = torch.from_dlpack(output.as_tensor()).permute(0, 3, 1, 2)
            made.append(finish_views(pixels, alteration, self._views.mean, self._views.std))
            fill_borders(made[-1], geometry, self._views.mean, self._views.std)
        return made

    def _cpu_views(self, job: _Job, outputs: Any) -> list[Tensor]:
        """Resizes and alters the crops, the batch divided among the threads."""
        size = -(-len(job.ids) // self._num_threads)
        parts = [slice(begin, begin + size) for begin in range(0, len(job.ids), size)]
        made: list[Tensor] = []
        tasks: list[Future[None]] = []
        jobs = zip(self._views.views, job.geometry, job.alterations, outputs, strict=True)
        for view, geometry, alteration, crops in jobs:
            made.append(self._buffers.take((len(job.ids), 3, view.size, view.size)))
            regions, out = [np.asarray(crop) for crop in crops], made[-1].numpy()
            for part in parts:
                altered = alteration and alteration.rows(part)
                arguments = geometry.rows(part), altered, self._views.mean, self._views.std, out[part]
                tasks.append(self._pool.submit(resize_views, regions[part], *arguments))
        for task in tasks:
            task.result()
        return made

    def _repair(self, error: Exception) -> None:
        """After DALI failed: finds the samples that it cannot decode, and has their batches read again."""
        jobs = [*self._running, *self._again]
        if not sum(self._reject_undecodable(job.ids, job.files) for job in jobs):
            raise error
        self._running.clear()
        self._again = deque(self._job(job.wanted, job.epochs, self._reader.start(job.wanted)) for job in jobs)

    def _reject_undecodable(self, ids: Ids, files: list[File]) -> int:
        """Decodes each file on its own; returns how many failed."""
        num_rejected = 0
        for sample, file in zip(ids.tolist(), files, strict=True):
            height, width = self._reader.index[["height", "width"]][sample].item()
            if reason := dali_graphs.why_undecodable(file, height, width):
                self._reader.reject(sample, reason)
                num_rejected += 1
                self._stop_if_too_bad(self._reader.num_rejected)
        return num_rejected

    def _stop_if_too_bad(self, num_bad: int) -> None:
        if num_bad > self._max_bad_fraction * max(self._num_made, FEW_SAMPLES):
            folder = self._reader.shards.path
            raise UserError(
                f"shards {folder}: {num_bad} samples are damaged, more than max_bad_fraction {self._max_bad_fraction}"
                f" of {max(self._num_made, FEW_SAMPLES)}; find them with: eyespot shards verify {folder}"
            )


def _one_openmp_thread() -> None:
    """This thread runs torch's operations alone: else each would wait for as many as there are cores.

    ``torch.set_num_threads`` would change the other threads of the process too.
    """
    torch.get_num_threads()  # the first call in a thread applies the process's setting, so it must not come later
    threadpool_limits(1, user_api="openmp")
