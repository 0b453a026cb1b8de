"""BatchMaker: ids in, batches out. Reads ahead, feeds DALI, repairs what cannot be decoded.

Where a GPU makes the views, nvJPEG decodes there, or the CPU does: its pixels then cross from pinned memory as 8-bit
views, which the GPU colours and normalises like its own.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from threadpoolctl import threadpool_limits
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch, send
from eyespot.data_pipeline.loading.finish_views import ViewFinisher
from eyespot.data_pipeline.loading.jobs import Job, Jobs, Part
from eyespot.data_pipeline.loading.members.beside_views import BesideViews, parts
from eyespot.data_pipeline.loading.mixtures.source_bounds import folder_of
from eyespot.data_pipeline.loading.nvjpeg import Decode, NvjpegConfig, check_gpu, decodes_regions, jpeg_engines
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.loading.resize import Buffers, fill_borders, resize_pixels, resize_views
from eyespot.data_pipeline.loading.sample_files import SampleFiles, Shown
from eyespot.data_pipeline.shards.bands.stored_bands import Bands
from eyespot.data_pipeline.terminal import plural

log = logging.getLogger("eyespot")

Ids = Int64[np.ndarray, " b"]

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
    bad: Int64[np.ndarray, " bad"]
    """Samples for which others stand in, as they are damaged."""
    num_refused: int
    """Samples that the CPU decoded because nvJPEG would not."""
    ready: torch.cuda.Event | None
    """What a stream has to wait for before it reads a GPU's batch; the CPU's is there."""


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
        labeled: Ids | None = None,
        decode: Decode = "auto",
        nvjpeg: NvjpegConfig | None = None,
        dtype: torch.dtype = torch.float32,
        files: SampleFiles | None = None,
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
            labeled: the samples whose label is shown, ascending; None = all.
            decode: for a GPU: gpu = nvJPEG decodes; auto = it does, and the CPU what it refuses; cpu = the CPU does.
            nvjpeg: how nvJPEG decodes; None = as it does where nobody says otherwise.
            dtype: of the views that a GPU makes.
            files: of the views, which the reader reads; None = the images of its shards.
        """
        bands = reader.shards.manifest.bands
        self._graphs = _graphs(bands)
        self._reader, self._views, self._seed, self._device = reader, views, seed, device
        self._files = files or SampleFiles(reader.shards, views, seed)
        self._images = [views.shown(number) for each in self._files.shown for number in each.views]
        """The views of images, as the parts of a job have them."""
        self._batch_size, self._num_threads, self._max_bad_fraction = batch_size, num_threads, max_bad_fraction
        self._labeled = labeled
        self._on_gpu = device.type == "cuda" and decode != "cpu" and bands is None
        self._may_refuse, self._deep = decode == "auto", bands is not None and bands.bits == 16
        self._nvjpeg = nvjpeg or NvjpegConfig()
        self._regions = self._on_gpu and decodes_regions() and not (self._nvjpeg.hw_decoder_load and jpeg_engines())
        # Of high priority: else each of its kernels would queue behind the trainer's, which fill the whole GPU.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._finisher = ViewFinisher(views.mean, views.std, dtype=dtype)
        self._being_read: deque[tuple[torch.cuda.Event, Any]] = deque()
        self._buffers = Buffers()
        self._pool = ThreadPoolExecutor(num_threads, "eyespot-views", _one_openmp_thread)
        self._read = Jobs(reader, self._files, views, seed, labeled)
        self._beside = BesideViews(views, self._files, seed, self._pool, num_threads)
        self._jobs = self._read.ahead(plan)
        self._running: deque[Job] = deque()
        self._again: deque[Job] = deque()
        self._num_made = self._num_bad = self._num_refused = self._refused_in_a_row = 0

    @property
    def num_frames(self) -> int:
        """Of the longest clip that a view shows of each sample; 1 = views are images."""
        return self._views.num_frames

    def __iter__(self) -> Iterator[Made]:
        """Yields each batch.

        Raises:
            UserError: too many samples are damaged.
            RuntimeError: the GPU has failed.
        """
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # else this thread opens a context on the first GPU
        pipelines = self._pipelines()
        while True:
            try:
                outputs = [view for pipeline in pipelines for view in pipeline.run()]
                beside = self._beside(self._running[0])
            except StopIteration:
                return
            except (RuntimeError, MemoryError) as error:
                if self._stream is not None:
                    check_gpu(self._stream.synchronize, error)
                if not self._repair():
                    yield self._decoded_here(error)
                self._wait_for_pixels(0)
                pipelines = self._pipelines()
                continue
            self._refused_in_a_row = 0
            yield self._made(self._next_job(), outputs, beside)

    def _made(self, job: Job, outputs: Any, beside: dict[int, Tensor], *, refused: bool = False) -> Made:
        self._num_made += len(job.ids)
        self._num_bad += len(job.bad)
        if len(job.bad):
            self._stop_if_too_bad(self._num_bad, int(job.bad[-1]))
        batch, ready = self._batch(job, outputs, beside, by_gpu=self._on_gpu and not refused)
        return Made(batch, job.bad, len(job.ids) * refused, ready)

    def close(self) -> None:
        """Ends all threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()
        with suppress(RuntimeError):  # a GPU that has failed; whoever asked it for more has been told
            self._wait_for_pixels(0)

    def _pipelines(self) -> list[Any]:
        """One for the views that show the same frames: a sample may have more frames in one than in another."""
        self._taken = [0] * len(self._files.shown)
        """How many of the running jobs each part's pipeline has begun."""
        return [self._pipeline(number, shown) for number, shown in enumerate(self._files.shown)]

    def _pipeline(self, number: int, shown: Shown) -> Any:
        views, size = self._spec(shown), self._batch_size * shown.num_frames
        options: dict[str, int] = dict(batch_size=size, num_threads=self._num_threads)
        if not self._on_gpu:
            return self._graphs.crop_pipeline(views, lambda: self._next_inputs(number), **options)
        return self._graphs.view_pipeline(
            views,
            lambda: self._next_inputs(number),
            device_id=self._device.index or 0,
            regions=self._regions,
            nvjpeg=self._nvjpeg.decoder_arguments(self._reader.shards.manifest.image_stats, size),
            **options,
        )

    def _spec(self, shown: Shown) -> ViewSpec:
        """What one pipeline makes."""
        return replace(self._views, views=tuple(self._views.shown(number) for number in shown.views))

    def _next_inputs(self, number: int) -> list[Any]:
        """What DALI calls when the pipeline of that part is ready for another batch."""
        if self._taken[number] == len(self._running):
            self._running.append(self._again.popleft() if self._again else next(self._jobs))
        part = self._running[self._taken[number]].parts[number]
        self._taken[number] += 1
        if not self._on_gpu:
            return self._graphs.crop_inputs(part.files, part.geometry)
        return self._graphs.view_inputs(self._spec(part.shown), part.files, part.geometry)

    def _next_job(self) -> Job:
        """The first of those that are running, which is over now."""
        self._taken = [taken - 1 for taken in self._taken]
        return self._running.popleft()

    def _batch(
        self, job: Job, outputs: Any, beside: dict[int, Tensor], *, by_gpu: bool
    ) -> tuple[Batch, torch.cuda.Event | None]:
        ready = None
        if self._stream is not None:
            # On a stream of its own, so as not to wait for the trainer's. Nobody waits here either: who takes the batch
            # does so on the GPU, and DALI gets its memory back once it has been read.
            with torch.cuda.stream(self._stream):
                pixels = (
                    [torch.from_dlpack(each.as_tensor()) for each in outputs] if by_gpu else self._pixels(job, outputs)
                )
                images, labels = self._gpu_views(job, pixels)
                there = {number: send(view, self._device) for number, view in beside.items()}
                views = job.arranged(self._views, images, there)
                ready = torch.cuda.Event()
                ready.record(self._stream)
            self._being_read.append((ready, outputs if by_gpu else None))
            self._wait_for_pixels(BEING_READ)
        else:
            images, labels = self._cpu_views(job, outputs), torch.from_numpy(job.labels)
            views = job.arranged(self._views, images, beside)
        ids, epochs = torch.from_numpy(job.ids), torch.from_numpy(job.epochs)
        return Batch(views=views, ids=ids, epochs=epochs, labels=labels, seed=self._seed), ready

    def _wait_for_pixels(self, left: int) -> None:
        """Lets go of decoded pixels that have been read; waits until no more than ``left`` batches are not."""
        while self._being_read and (len(self._being_read) > left or self._being_read[0][0].query()):
            ready, _ = self._being_read.popleft()
            ready.synchronize()

    def _gpu_views(self, job: Job, pixels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Views, made of HWC levels, and labels, in memory of their own, which DALI cannot overwrite."""
        there = [each.to(self._device, non_blocking=True).permute(0, 3, 1, 2) for each in pixels]
        last = [place.flip_finished for place in job.geometry]
        views, (labels,) = self._finisher(there, job.alterations, [job.labels], last)
        for view, geometry in zip(views, job.geometry, strict=True):
            fill_borders(view, geometry, self._views.mean, self._views.std)
        return views, labels

    def _pixels(self, job: Job, outputs: Any) -> list[Tensor]:
        """The crops, resized and flipped here for a GPU: HWC levels in pinned memory, whence copies do not block.

        Torch's allocator gives that memory to no later batch before a copy out of it is through.
        """
        pinned = self._device.type == "cuda"
        images = zip(job.geometry, self._images, strict=True)
        shapes = [(len(place.flip), view.size, view.size, self._views.channels) for place, view in images]
        dtype = torch.float32 if self._deep else torch.uint8
        made = [torch.empty(shape, dtype=dtype, pin_memory=pinned) for shape in shapes]
        self._in_parts(
            job,
            outputs,
            lambda number, crops, rows: resize_pixels(
                crops, job.geometry[number].rows(rows), made[number].numpy()[rows]
            ),
        )
        return made

    def _cpu_views(self, job: Job, outputs: Any) -> list[Tensor]:
        """Resizes and alters the crops."""
        images = zip(job.geometry, self._images, strict=True)
        channels = self._views.channels
        made = [self._buffers.take((len(place.flip), channels, view.size, view.size)) for place, view in images]

        def resize(number: int, crops: list[np.ndarray], rows: slice) -> None:
            alteration = job.alterations[number]
            altered, out = alteration and alteration.rows(rows), made[number].numpy()[rows]
            resize_views(crops, job.geometry[number].rows(rows), altered, self._views.mean, self._views.std, out)

        self._in_parts(job, outputs, resize)
        return made

    def _in_parts(self, job: Job, outputs: Any, resize: Callable[[int, list[np.ndarray], slice], None]) -> None:
        """Hands each view's crops, the batch divided among the threads, to ``resize``: view, crops, their rows."""
        tasks: list[Future[None]] = []
        for number, crops in enumerate(outputs):
            regions = [np.asarray(crop) for crop in crops]
            shares = parts(len(regions), self._num_threads)
            tasks += [self._pool.submit(resize, number, regions[part], part) for part in shares]
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
        self._again = deque(map(self._read.again, jobs))
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
        crops = [view for part in job.parts for view in self._crops_of(part)]
        return self._made(job, crops, self._beside(job), refused=True)

    def _crops_of(self, part: Part) -> Any:
        """Decodes and crops on the CPU."""
        inputs = iter([self._graphs.crop_inputs(part.files, part.geometry)])
        options = dict(batch_size=len(part.files), num_threads=self._num_threads)
        return self._graphs.crop_pipeline(self._spec(part.shown), lambda: next(inputs), **options).run()

    def _say_refused(self, job: Job, error: Exception) -> None:
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

    def _reject_undecodable(self, job: Job) -> int:
        """Decodes each file on its own; returns how many failed."""
        num_rejected = 0
        images = (part.undecodable(self._reader.index, self._graphs.undecodable) for part in job.parts)
        for sample, row, reason in chain(*images, self._beside.undecodable(job)):
            self._reader.reject(sample, row, reason)
            num_rejected += 1
            self._stop_if_too_bad(self._reader.num_rejected, sample)
        job.sound = not num_rejected
        return num_rejected

    def _stop_if_too_bad(self, num_bad: int, latest: int) -> None:
        if num_bad > self._max_bad_fraction * max(self._num_made, FEW_SAMPLES):
            folder, of = folder_of(self._reader.shards, latest).path, max(self._num_made, FEW_SAMPLES)
            bad, how = "are damaged", f"find them with: eyespot shards verify {folder}"
            if incomplete := self._files.incomplete():
                bad = "are damaged or incomplete"
                how = f"{incomplete}: name the others with --data.ids, or raise --data.max-bad-fraction"
            more = f"more than max_bad_fraction {self._max_bad_fraction} of {of}"
            raise UserError(f"shards {folder}: {plural(num_bad, 'sample')} {bad}, {more}; {how}")


def _graphs(bands: Bands | None) -> Any:
    """What decodes and cuts out images."""
    # Imported here, for whoever trains on other batches has no need of DALI; and before its user's exit handler is
    # registered, which must run before DALI's own.
    from eyespot.data_pipeline.loading import dali_graphs
    from eyespot.data_pipeline.loading.bands.band_crops import BandGraphs

    return dali_graphs if bands is None else BandGraphs(bands)


def _one_openmp_thread() -> None:
    """This thread runs torch's operations alone: else each would wait for as many as there are cores.

    ``torch.set_num_threads`` would change the other threads of the process too.
    """
    torch.get_num_threads()  # the first call in a thread applies the process's setting, so it must not come later
    threadpool_limits(1, user_api="openmp")
