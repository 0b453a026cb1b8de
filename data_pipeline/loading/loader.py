"""make_loader: an endless, resumable stream of batches. make_pass: every sample once, for evaluation.

make_selection: chosen samples, to watch a run by.
"""

import atexit
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from queue import Queue
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Int64

from eyespot.data_pipeline.augment.views import CenterView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.bands.band_views import check_channels
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.batch_maker import BatchMaker, Made
from eyespot.data_pipeline.loading.blocks.open_blocks import NodeCache, open_blocks
from eyespot.data_pipeline.loading.cpu_share import cpu_share
from eyespot.data_pipeline.loading.mixtures.stream_order import SourceCounts, order_of
from eyespot.data_pipeline.loading.nvjpeg import Decode, NvjpegConfig
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.loading.stream_identity import data_checksum, tokenizer_checksum
from eyespot.data_pipeline.order.sample_order import SHUFFLE_WINDOW
from eyespot.data_pipeline.order.stream_state import checked_start, frame_of
from eyespot.data_pipeline.patience import PATIENCE_SECONDS
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural

Plan = Iterator[tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]]
"""The ids and epochs of one rank's batches, in order."""

Count = Annotated[int, Ge(1), "must be at least 1"]

MOST_AHEAD = 3
"""Finished batches that wait for the consumer, at most."""
READY_MB = 1024
"""Three batches of 341 MB each: of 566 images with one view of 224 pixels in float32."""


def batches_ahead(spec: "LoaderSpec", share: int) -> int:
    """How many finished batches of so many samples may wait for the consumer: as many as fit, one at least."""
    batch_bytes = share * spec.views.sample_bytes(2 if spec.bf16 else 4)
    return max(1, min(MOST_AHEAD, spec.ready_mb * 1_000_000 // batch_bytes))


@dataclass(kw_only=True, slots=True, frozen=True)
class LoaderSpec:
    """What to load and how."""

    shards: ShardFolder
    """Where the samples are."""
    views: ViewSpec
    """What to make of each sample."""
    ids: Int64[np.ndarray, " n"] | None = None
    """The samples that the endless stream, or a pass, is made of; None = all."""
    labeled_ids: Int64[np.ndarray, " n"] | None = None
    """The samples whose labels the endless stream shows; None = all that have one."""
    batch_size: Count
    """Samples of one micro-batch over all ranks; the world size must divide it."""
    seed: int = 0
    """Of the order and of every random crop."""
    device: str = "cpu"
    """Where the views are made and lie: "cpu" or "cuda:0"."""
    decode: Decode = "auto"
    """Who decodes for a GPU: gpu = nvJPEG; auto = nvJPEG, and the CPU what that refuses; cpu = the CPU."""
    nvjpeg: NvjpegConfig = field(default_factory=NvjpegConfig)
    """How nvJPEG decodes."""
    bf16: bool = False
    """Whether a GPU's views are bfloat16, half the memory; else they are float32, as those of the CPU always are."""
    ready_mb: Count = READY_MB
    """Finished batches that wait for the consumer take at most so many MB (10^6 bytes): three at most, one at least."""
    num_threads: Count = field(default_factory=cpu_share)
    """CPU threads that decode and resize."""
    max_bad_fraction: float = 0.01
    """Share of damaged samples above which the stream stops."""
    patience_seconds: float = PATIENCE_SECONDS
    """For how long reads that fail are tried again."""
    shuffle_window: Annotated[int, Ge(1)] = SHUFFLE_WINDOW
    """Samples that the endless stream shuffles together, in whole blocks of 256; of each lane."""
    lanes: Count = 1
    """Parts of a batch whose samples come from blocks of their own: see ``LaneOrder``."""
    lane_frame: Annotated[int, Ge(0)] = 0
    """Samples that are dealt to the lanes, a multiple of them; 0 = those of a batch. A state's go before."""
    cache: NodeCache | None = None
    """Where a node's ranks share blocks of the tars; None = see ``open_blocks``."""

    def __post_init__(self) -> None:
        check_ranges(self)


def make_loader(spec: LoaderSpec, rank: int = 0, world_size: int = 1, state: dict[str, int] | None = None) -> "Loader":
    """The endless stream: micro-batch m holds positions m * batch_size onwards, rank r its r-th equal slice of them.

    Args:
        spec: what to load.
        rank: this process.
        world_size: number of processes.
        state: of an earlier loader of these shards and this seed, with any world or batch size; goes on exactly there.

    Raises:
        UserError: the spec, the shards or the state do not fit.
    """
    _check(spec)
    spec = replace(spec, ids=spec.shards.chosen(spec.ids))
    if spec.batch_size % world_size:
        raise UserError(f"batch_size {spec.batch_size}: {world_size} ranks do not divide it; choose a multiple")
    manifest = spec.shards.manifest
    num_samples = manifest.num_samples if spec.ids is None else len(spec.ids)
    check_enough(spec.batch_size, num_samples, spec.shards)
    files = _files(spec)
    labeled = None if spec.labeled_ids is None else np.sort(spec.labeled_ids)
    checksum = data_checksum(manifest, files, spec.ids, labeled)
    identity = {"num_samples": num_samples, "shards": checksum, "seed": spec.seed}
    frame = frame_of(spec.lanes, state, spec.lane_frame or spec.batch_size)
    window = spec.shuffle_window
    order = order_of(spec.shards, spec.ids, spec.seed, shuffle_window=window, lanes=spec.lanes, frame=frame)
    identity |= order.identity | tokenizer_checksum(spec.views)
    start = checked_start(identity, state)
    share, ahead = spec.batch_size // world_size, -(-order.window * spec.lanes // world_size)

    def plan() -> Plan:
        position = start + rank * share
        while True:
            places, epochs = order.ids(position, share)
            yield places if spec.ids is None else spec.ids[places], epochs
            position += spec.batch_size

    loader = _loader(
        spec, files, plan(), share, ahead=ahead, substitute=True, start=start, identity=identity, labeled=labeled
    )
    loader.sources = SourceCounts.of(spec.shards, order)
    return loader


def make_pass(spec: LoaderSpec, rank: int = 0, world_size: int = 1) -> "Loader":
    """One pass by id: rank r sees rows N * r // W to N * (r + 1) // W once; its last batch may be smaller.

    Where the spec names ids, the pass is over these, in their order. Damaged samples are errors here: another image in
    their place would falsify the result.

    Raises:
        UserError: the spec or the shards do not fit; while iterating, a sample is damaged.
    """
    _check(spec)
    count = spec.shards.manifest.num_samples if spec.ids is None else len(spec.ids)
    first, end = (count * r // world_size for r in (rank, rank + 1))
    share = max(1, spec.batch_size // world_size)

    def plan() -> Plan:
        for begin in range(first, end, share):
            ids = np.arange(begin, min(begin + share, end))
            yield ids if spec.ids is None else spec.ids[ids], np.zeros_like(ids)

    return _loader(spec, _files(spec), plan(), share, substitute=False)


def make_selection(spec: LoaderSpec, ids: Int64[np.ndarray, " n"]) -> "Loader":
    """One pass over chosen samples in the order given, as their first epoch shows them; the last batch may be smaller.

    Damaged samples are replaced, as in ``make_loader``: they must not end the run that is watched.

    Args:
        spec: what to load and how.
        ids: which samples.

    Raises:
        UserError: the spec or the shards do not fit.
    """
    _check(spec)

    def plan() -> Plan:
        for begin in range(0, len(ids), spec.batch_size):
            chosen = ids[begin : begin + spec.batch_size]
            yield chosen, np.zeros_like(chosen)

    return _loader(spec, _files(spec), plan(), spec.batch_size, substitute=True)


class Loader:
    """An iterator of batches that are made ahead of the need, in the background.

    Nothing of it outlives the process, however that ends: it uses threads only.
    """

    num_samples: int
    """Samples in the data set."""
    num_frames: int
    """Of the longest clip that a view shows of each; 1 = views are images."""
    bad_samples: int
    """Delivered samples of this rank that stand in for damaged ones."""
    refused_samples: int
    """Delivered samples of this rank that the CPU decoded because nvJPEG had refused their batch."""
    sources: SourceCounts | None = None
    """What a mixture's stream has taken from each source; None = it is none."""

    def __init__(
        self,
        maker: BatchMaker,
        num_samples: int,
        start: int,
        samples_per_batch: int,
        identity: dict[str, int],
        ahead: int = MOST_AHEAD,
    ):
        self.num_samples, self.num_frames = num_samples, maker.num_frames
        self.bad_samples = self.refused_samples = 0
        self._samples_consumed = start
        self._samples_per_batch = samples_per_batch
        self._identity = identity
        self._worker = _Worker(maker, ahead)
        self._end: BaseException | None = None
        self.close = weakref.finalize(self, self._worker.stop)
        """Ends the background threads. The garbage collector and the end of the process do so too."""

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        if not self.close.alive and self._end is None:
            raise ValueError("the loader is closed")
        if self._end is None:
            made = self._worker.take()
            if not isinstance(made, BaseException):
                _hand_over(made.batch, made.ready)
                self.bad_samples += len(made.bad)
                if self.sources is not None:
                    self.sources.add_bad(made.bad)
                self.refused_samples += made.num_refused
                self._samples_consumed += self._samples_per_batch
                return made.batch
            self._end = made
            self.close()
        raise self._end

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands after what was delivered, and which stream it is; a few integers."""
        return {"samples_consumed": self._samples_consumed, **self._identity}


class _Worker:
    """Makes batches in a background thread. It knows nothing of its loader, so that one can be garbage-collected."""

    def __init__(self, maker: BatchMaker, ahead: int):
        self._maker = maker
        self._ready = Queue[Made | BaseException]()
        self._room = threading.Semaphore(ahead)
        """Waited for before a batch is made, so that none is held beyond those."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eyespot-loader", daemon=True)
        self._thread.start()
        atexit.register(self.stop)  # runs before DALI's own exit handler, which trips over pipelines in use

    def take(self) -> Made | BaseException:
        """Waits for the next batch, or for what ended them."""
        made = self._ready.get()
        self._room.release()
        return made

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self._stopped.set()
        self._room.release()
        self._thread.join()
        self._ready.queue.clear()
        self._maker.close()

    def _run(self) -> None:
        made = iter(self._maker)
        try:
            while self._room.acquire() and not self._stopped.is_set():
                self._ready.put(next(made))
        except StopIteration:
            self._ready.put(StopIteration())
        except BaseException as error:
            self._ready.put(error)


def _hand_over(batch: Batch, ready: torch.cuda.Event | None) -> None:
    """Lets the caller's stream wait for what another stream makes, and tells torch's allocator that it reads it.

    Else the batch's memory would be given to a later one while kernels that read it still wait to run.
    """
    if ready is None:
        return
    stream = torch.cuda.current_stream(batch.labels.device)
    stream.wait_event(ready)
    for tensor in (*batch.views, batch.labels):
        tensor.record_stream(stream)


def _files(spec: LoaderSpec) -> SampleFiles:
    return SampleFiles(spec.shards, spec.views, spec.seed, None if spec.ids is None else np.sort(spec.ids))


def _loader(
    spec: LoaderSpec,
    files: SampleFiles,
    plan: Plan,
    share: int,
    *,
    substitute: bool,
    ahead: int = SHUFFLE_WINDOW,
    start: int = 0,
    identity: dict[str, int] | None = None,
    labeled: Int64[np.ndarray, " n"] | None = None,
) -> Loader:
    blocks = open_blocks(spec.shards, files, spec.ids, spec.cache, ahead, spec.patience_seconds)
    plan = plan if blocks is None else blocks.ahead(plan, files.rows, ahead)
    reader = Reader(
        spec.shards,
        substitute=substitute,
        index=files.table,
        among=files.among,
        patience_seconds=spec.patience_seconds,
        source=blocks,
    )
    maker = BatchMaker(
        reader,
        plan,
        spec.views,
        batch_size=share,
        seed=spec.seed,
        device=torch.device(spec.device),
        num_threads=spec.num_threads,
        max_bad_fraction=spec.max_bad_fraction,
        labeled=labeled,
        decode=spec.decode,
        nvjpeg=spec.nvjpeg,
        dtype=torch.bfloat16 if spec.bf16 else torch.float32,
        files=files,
    )
    num_samples = (identity or {}).get("num_samples", spec.shards.manifest.num_samples)
    return Loader(maker, num_samples, start, spec.batch_size, identity or {}, batches_ahead(spec, share))


def _check(spec: LoaderSpec) -> None:
    check_decode(spec.decode, spec.device)
    check_channels(spec.views, spec.shards, spec.decode)
    if spec.device == "cpu" and spec.bf16:
        raise ValueError("views are float32 on the CPU")
    if spec.device != "cpu":
        available = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if spec.device not in available:
            raise UserError(
                f"device {spec.device}: not on this machine; choose one of {', '.join(['cpu', *available])}"
            )
    check_views(spec.views)


def check_enough(batch_size: int, num_samples: int, shards: ShardFolder) -> None:
    """Raises a UserError where a micro-batch over all ranks holds more than the samples there are."""
    if batch_size > num_samples:
        raise UserError(
            f"data.batch_size {batch_size}: more than the {plural(num_samples, 'sample')} in"
            f" {shards.path}; choose a smaller one:"
            f" --data.batch-size {num_samples} or less"
        )


def check_decode(decode: Decode, device: str) -> None:
    """Whether images can be decoded as asked.

    Raises:
        UserError: by nvJPEG, for views that are made on the CPU.
    """
    if device == "cpu" and decode == "gpu":
        raise UserError(f"data.decode gpu: this run is on the CPU; set it to auto{or_gpu()}")


def or_gpu() -> str:
    """What else can be done where something cannot be on the CPU: nothing without a GPU."""
    return ", or --device cuda" if torch.cuda.is_available() else " (torch finds no GPU on this machine)"


def check_views(views: ViewSpec) -> None:
    """Whether such views can be made of any image.

    Raises:
        UserError: a view is larger than what it is cut from, or of no size; there is none; or no tokenizer for texts.
    """
    for number, view in enumerate(views.views):
        if isinstance(view, CenterView) and not (1 <= view.size <= view.resize or view.mode == "border"):
            raise UserError(f"views[{number}].size {view.size}: larger than resize {view.resize}; lower it")
        if isinstance(view, RandomView) and not (view.size >= 1 and 0 < view.scale[0] <= view.scale[1] <= 1):
            raise UserError(f"views[{number}]: size {view.size}, scale {view.scale}; need size >= 1, 0 < scale <= 1")
    tokenizer_checksum(views)
    if not views.images or min(views.std) <= 0:
        raise UserError(
            f"views: {len(views.images)} views of images, std {views.std}; need a view of images and a positive std"
        )
