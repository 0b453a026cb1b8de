"""BatchMaker: ids in, batches out. Reads ahead, feeds DALI, repairs what cannot be decoded.

Where a GPU makes the views, nvJPEG decodes there, or the CPU does: its pixels then cross from pinned memory as 8-bit
views, which the GPU colours and normalises like its own.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from threadpoolctl import threadpool_limits
from torch import Tensor

from eyespot.data_pipeline.augment.crop_geometry import Geometry, view_geometry
from eyespot.data_pipeline.augment.pipeline import Alteration, view_alteration
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.finish_views import ViewFinisher
from eyespot.data_pipeline.loading.nvjpeg import Decode, NvjpegConfig, decodes_regions
from eyespot.data_pipeline.loading.reader import File, Reader, Reading
from eyespot.data_pipeline.loading.resize import Buffers, fill_borders, resize_pixels, resize_views

log = logging.getLogger("eyespot")

Ids = Int64[np.ndarray, " b"]

READ_AHEAD = 3
"""Batches whose files are being read while earlier ones are decoded."""
BEING_READ = 2
"""Batches whose decoded pixels a GPU may still be reading when the next one is decoded."""
FEW_SAMPLES = 1000
"""Damage is judged as a share of at least this many samples, so that one bad file among the first ten stops nothing."""
OUT_OF_MEMORY = re.compile("Can't allocate|allocation failed|out of memory")
"""What DALI says then, in an error of any kind."""
MOST_REFUSED = 10
"""Batches in a row that nvJPEG refuses before it is asked no more: each costs seconds."""


class Made(NamedTuple):
    """A batch, and what it took."""

    batch: Batch
    num_bad: int
    """Samples that stand in for damaged ones."""
    num_refused: int
    """Samples that the CPU decoded because nvJPEG would not."""
    ready: torch.cuda.Event | None
    """What a stream has to wait for before it reads a GPU's batch; the CPU's is there."""


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
    sound: bool = False
    """Each of its files was decoded on its own, and nothing was found."""


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
        decode: Decode = "auto",
        nvjpeg: NvjpegConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        """Starts nothing yet.

        Args:
            reader: of the files.
            plan: the ids and epochs of each batch.
            views: what to make of each image.
            batch_size: the most samples that a batch of the plan holds.
            seed: of the random crops.
            device: where the views are made and lie.
            num_threads: that decode and resize.
            max_bad_fraction: share of damaged samples above which making stops.
            labeled: of each sample of the index, whether its label is shown; None = all are.
            decode: for a GPU: gpu = nvJPEG decodes; auto = it does, and the CPU what it refuses; cpu = the CPU does.
            nvjpeg: how nvJPEG decodes; None = as it does where nobody says otherwise.
            dtype: of the views that a GPU makes.
        """
        # Here, for whoever trains on other batches has no need of DALI; and before its user's exit handler is
        # registered, which must run before DALI's own.
        from eyespot.data_pipeline.loading import dali_graphs

        self._graphs = dali_graphs
        self._reader, self._views, self._seed, self._device = reader, views, seed, device
        self._batch_size, self._num_threads, self._max_bad_fraction = batch_size, num_threads, max_bad_fraction
        self._labeled = labeled
        self._on_gpu, self._may_refuse = device.type == "cuda" and decode != "cpu", decode == "auto"
        self._nvjpeg = nvjpeg or NvjpegConfig()
        self._regions = self._on_gpu and decodes_regions()
        # Of high priority: else each of its kernels would queue behind the trainer's, which fill the whole GPU.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._finisher = ViewFinisher(views.mean, views.std, dtype=dtype)
        self._being_read: deque[tuple[torch.cuda.Event, Any]] = deque()
        self._buffers = Buffers()
        self._pool = ThreadPoolExecutor(num_threads, "eyespot-views", _one_openmp_thread)
        self._jobs = self._read_ahead(iter(plan))
        self._running: deque[_Job] = deque()
        self._again: deque[_Job] = deque()
        self._num_made = self._num_bad = self._num_refused = self._refused_in_a_row = 0

    def __iter__(self) -> Iterator[Made]:
        """Yields each batch.

        Raises:
            UserError: too many samples are damaged.
            RuntimeError: the GPU has failed.
        """
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # else this thread opens a context on the first GPU
        pipeline = self._pipeline()
        while True:
            try:
                outputs = pipeline.run()
            except StopIteration:
                return
            except (RuntimeError, MemoryError) as error:
                if self._stream is not None:
                    check_gpu(self._stream.synchronize, error)
                if not self._repair():
                    yield self._decoded_here(error)
                self._wait_for_pixels(0)
                pipeline = self._pipeline()
                continue
            self._refused_in_a_row = 0
            yield self._made(self._running.popleft(), outputs)

    def _made(self, job: _Job, outputs: Any, *, refused: bool = False) -> Made:
        num_bad = int((job.ids != job.wanted).sum())
        self._num_made += len(job.ids)
        self._num_bad += num_bad
        self._stop_if_too_bad(self._num_bad)
        batch, ready = self._batch(job, outputs, by_gpu=self._on_gpu and not refused)
        return Made(batch, num_bad, len(job.ids) * refused, ready)

    def close(self) -> None:
        """Ends all threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()
        self._wait_for_pixels(0)

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
        if not self._on_gpu:
            return self._graphs.crop_pipeline(self._views, self._next_inputs, **options)
        return self._graphs.view_pipeline(
            self._views,
            self._next_inputs,
            device_id=self._device.index or 0,
            regions=self._regions,
            nvjpeg=self._nvjpeg.decoder_arguments(self._reader.shards.manifest.image_stats, self._batch_size),
            **options,
        )

    def _next_inputs(self) -> list[Any]:
        """What DALI calls when it is ready for another batch."""
        job = self._again.popleft() if self._again else next(self._jobs)
        self._running.append(job)
        if not self._on_gpu:
            return self._graphs.crop_inputs(job.files, job.geometry)
        return self._graphs.view_inputs(self._views, job.files, job.geometry)

    def _batch(self, job: _Job, outputs: Any, *, by_gpu: bool) -> tuple[Batch, torch.cuda.Event | None]:
        ready = None
        if self._stream is not None:
            # On a stream of its own, so as not to wait for the trainer's. Nobody waits here either: who takes the batch
            # does so on the GPU, and DALI gets its memory back once it has been read.
            with torch.cuda.stream(self._stream):
                pixels = (
                    [torch.from_dlpack(each.as_tensor()) for each in outputs] if by_gpu else self._pixels(job, outputs)
                )
                views, labels = self._gpu_views(job, pixels)
                ready = torch.cuda.Event()
                ready.record(self._stream)
            self._being_read.append((ready, outputs if by_gpu else None))
            self._wait_for_pixels(BEING_READ)
        else:
            views, labels = self._cpu_views(job, outputs), torch.from_numpy(job.labels)
        ids, epochs = torch.from_numpy(job.ids), torch.from_numpy(job.epochs)
        return Batch(views=views, ids=ids, epochs=epochs, labels=labels, seed=self._seed), ready

    def _wait_for_pixels(self, left: int) -> None:
        """Lets go of decoded pixels that have been read; waits until no more than ``left`` batches are not."""
        while self._being_read and (len(self._being_read) > left or self._being_read[0][0].query()):
            ready, _ = self._being_read.popleft()
            ready.synchronize()

    def _gpu_views(self, job: _Job, pixels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Views, made of 8-bit HWC ones, and labels, in memory of their own, which DALI cannot overwrite."""
        there = [each.to(self._device, non_blocking=True).permute(0, 3, 1, 2) for each in pixels]
        last = [place.flip_finished for place in job.geometry]
        views, (labels,) = self._finisher(there, job.alterations, [job.labels], last)
        for view, geometry in zip(views, job.geometry, strict=True):
            fill_borders(view, geometry, self._views.mean, self._views.std)
        return views, labels

    def _pixels(self, job: _Job, outputs: Any) -> list[Tensor]:
        """The crops, resized and flipped here for a GPU: 8-bit HWC views in pinned memory, whence copies do not block.

        Torch's allocator gives that memory to no later batch before a copy out of it is through.
        """
        pinned = self._device.type == "cuda"
        shapes = [(len(job.ids), view.size, view.size, 3) for view in self._views.views]
        made = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for shape in shapes]
        self._in_parts(
            job,
            outputs,
            lambda number, crops, rows: resize_pixels(
                crops, job.geometry[number].rows(rows), made[number].numpy()[rows]
            ),
        )
        return made

    def _cpu_views(self, job: _Job, outputs: Any) -> list[Tensor]:
        """Resizes and alters the crops."""
        made = [self._buffers.take((len(job.ids), 3, view.size, view.size)) for view in self._views.views]

        def resize(number: int, crops: list[np.ndarray], rows: slice) -> None:
            alteration = job.alterations[number]
            altered, out = alteration and alteration.rows(rows), made[number].numpy()[rows]
            resize_views(crops, job.geometry[number].rows(rows), altered, self._views.mean, self._views.std, out)

        self._in_parts(job, outputs, resize)
        return made

    def _in_parts(self, job: _Job, outputs: Any, resize: Callable[[int, list[np.ndarray], slice], None]) -> None:
        """Hands each view's crops, the batch divided among the threads, to ``resize``: view, crops, their rows."""
        size = -(-len(job.ids) // self._num_threads)
        parts = [slice(begin, begin + size) for begin in range(0, len(job.ids), size)]
        tasks: list[Future[None]] = []
        for number, crops in enumerate(outputs):
            regions = [np.asarray(crop) for crop in crops]
            tasks += [self._pool.submit(resize, number, regions[part], part) for part in parts]
        for task in tasks:
            task.result()

    def _repair(self) -> bool:
        """After DALI failed: finds the samples that it cannot decode, and has their batches read again.

        Returns:
            Whether there were any.
        """
        jobs = [*self._running, *self._again]
        if not sum(self._reject_undecodable(job) for job in jobs if not job.sound):
            return False
        self._running.clear()
        self._again = deque(self._job(job.wanted, job.epochs, self._reader.start(job.wanted)) for job in jobs)
        return True

    def _decoded_here(self, error: Exception) -> Made:
        """The batch that DALI failed at, decoded on the CPU: nothing is wrong with its files, so nvJPEG refused them.

        Raises:
            MemoryError: that was all; the CPU would only hide it.
            Exception: ``error``, where it was the CPU that failed, or only the GPU may decode.
        """
        if OUT_OF_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from error
        if not (self._on_gpu and self._may_refuse) or isinstance(error, MemoryError):
            raise error
        job, *others = self._running
        self._running.clear()
        self._again.extendleft(reversed(others))
        self._say_refused(job, error)
        files = iter([self._graphs.crop_inputs(job.files, job.geometry)])
        options = dict(batch_size=len(job.ids), num_threads=self._num_threads)
        crops: Any = self._graphs.crop_pipeline(self._views, lambda: next(files), **options).run()
        return self._made(job, crops, refused=True)

    def _say_refused(self, job: _Job, error: Exception) -> None:
        """Once; and once more where nvJPEG is given up."""
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if not self._num_refused:
            log.warning(
                "data.decode auto: the GPU refused a batch (%s, ... %d in all; %s) whose images the CPU can decode, and"
                " did; refused_samples counts them",
                *(self._reader.describe(int(job.ids[0])), len(job.ids), why),
            )
        self._num_refused += len(job.ids)
        self._refused_in_a_row += 1
        if self._refused_in_a_row == MOST_REFUSED:
            self._on_gpu = False
            log.warning(
                "data.decode auto: the GPU refused %d batches in a row; from here on the CPU decodes all, as with"
                " --data.decode cpu; see: eyespot doctor",
                MOST_REFUSED,
            )

    def _reject_undecodable(self, job: _Job) -> int:
        """Decodes each file on its own; returns how many failed."""
        num_rejected = 0
        for sample, file in zip(job.ids.tolist(), job.files, strict=True):
            height, width = self._reader.index[["height", "width"]][sample].item()
            if reason := self._graphs.why_undecodable(file, height, width):
                self._reader.reject(sample, reason)
                num_rejected += 1
                self._stop_if_too_bad(self._reader.num_rejected)
        job.sound = not num_rejected
        return num_rejected

    def _stop_if_too_bad(self, num_bad: int) -> None:
        if num_bad > self._max_bad_fraction * max(self._num_made, FEW_SAMPLES):
            folder = self._reader.shards.path
            raise UserError(
                f"shards {folder}: {num_bad} samples are damaged, more than max_bad_fraction {self._max_bad_fraction}"
                f" of {max(self._num_made, FEW_SAMPLES)}; find them with: eyespot shards verify {folder}"
            )


def check_gpu(wait: Callable[[], None], error: Exception) -> None:
    """After DALI failed: whether the GPU itself did, which then fails whatever it is asked.

    Args:
        wait: for some of its work.
        error: DALI's.

    Raises:
        RuntimeError: it has. No image is at fault, and the CPU would decode them for a GPU that takes nothing.
    """
    try:
        wait()
    except RuntimeError as failure:
        first, *_ = str(failure).strip().splitlines() or [type(failure).__name__]
        raise RuntimeError(
            f"the GPU has failed, seen while images were decoded on it, none of which is at fault: {first}"
        ) from error


def _one_openmp_thread() -> None:
    """This thread runs torch's operations alone: else each would wait for as many as there are cores.

    ``torch.set_num_threads`` would change the other threads of the process too.
    """
    torch.get_num_threads()  # the first call in a thread applies the process's setting, so it must not come later
    threadpool_limits(1, user_api="openmp")
