"""Decoding on the CPU for a GPU, batches that a GPU refuses, threads; what is made is tested in test_loader.py.

There is no GPU here: a CPU plays it, which runs the GPU's graph and may be told to refuse batches.
"""

import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.augment.views import CenterView, Clip, MaskView, RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch_maker import MOST_REFUSED, BatchMaker, Made, _one_openmp_thread
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.loading.nvjpeg import NvjpegConfig
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

CENTER = ViewSpec(views=(CenterView(resize=56, size=48),))
RANDOM = ViewSpec(views=(RandomView(size=48), RandomView(size=200)))
LABELLED = ViewSpec(
    views=(RandomView(size=64, rand_augment=9.0, erase=0.5), RandomView(size=40, jitter=(0.4, 0.4, 0.4, 0.1)))
)
ERASED, PLAIN = (ViewSpec(views=(RandomView(size=64, erase=erase),)) for erase in (1.0, 0.0))
CLIPS = ViewSpec(
    views=(
        RandomView(size=40, clip=Clip(4, 2), erase=0.5),
        RandomView(size=24),
        MaskView(of=0),
        RandomView(size=32, clip=Clip(4, 2), jitter=(0.4, 0.4, 0.4, 0.1)),
        RandomView(size=24, clip=Clip(3, stream=1), partner=True),
    )
)
SIZE = 12


class Crossing(BatchMaker):
    """Decodes and resizes as for a GPU that decodes nothing, and finishes as the GPU would."""

    def _cpu_views(self, job: Any, outputs: Any) -> list[torch.Tensor]:
        return self._gpu_views(job, self._pixels(job, outputs))[0]


class PlayedGPU(BatchMaker):
    """The GPU's graph on the CPU; it refuses every batch that has one of these samples."""

    def __init__(
        self, *args: Any, refused: set[int], why: str = "nvJPEG error (6): unsupported\nfurther lines", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._on_gpu, self._refused, self._why = True, refused, why

    def _pipeline(self, number: int, shown: Any) -> Any:
        if not self._on_gpu:
            return super()._pipeline(number, shown)
        size, views = self._batch_size * shown.num_frames, self._spec(shown)
        options = dict(batch_size=size, num_threads=self._num_threads, device_id=None)
        pipeline, maker = self._graphs.view_pipeline(views, lambda: self._next_inputs(number), **options), self

        class Refusing:
            def run(self) -> Any:
                outputs = pipeline.run()
                if maker._refused & set(maker._running[0].ids.tolist()):
                    raise RuntimeError(maker._why)
                return outputs

        return Refusing()

    def _batch(self, job: Any, outputs: Any, masks: Any, *, by_gpu: bool) -> Any:
        self._by_gpu = by_gpu
        return super()._batch(job, outputs, masks, by_gpu=by_gpu)

    def _cpu_views(self, job: Any, outputs: Any) -> list[torch.Tensor]:
        if not self._by_gpu:
            return self._gpu_views(job, self._pixels(job, outputs))[0]
        return self._gpu_views(job, [torch.from_dlpack(output.as_tensor()) for output in outputs])[0]


def make(kind: type[BatchMaker], shards: Path, views: ViewSpec, num_batches: int = 4, **options: Any) -> list[Made]:
    ids = np.arange(num_batches * SIZE)
    plan = [(part, np.ones_like(part)) for part in np.split(ids, num_batches)]
    known = dict(batch_size=SIZE, seed=3, device=torch.device("cpu"), num_threads=2, max_bad_fraction=0.1)
    folder = ShardFolder(shards)
    files = SampleFiles(folder, views, 3)
    reader = Reader(folder, substitute=True, index=files.table)
    maker = kind(reader, plan, views, **known, **options, files=files)
    try:
        return list(maker)
    finally:
        maker.close()


def same(one: Made, other: Made) -> bool:
    pairs = zip(one.batch.views, other.batch.views, strict=True)
    return torch.equal(one.batch.ids, other.batch.ids) and all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("views", [CENTER, RANDOM, ViewSpec(views=(CenterView(resize=40, size=48, mode="border"),))])
def test_pixels_that_cross_to_a_gpu_become_the_cpus_views(photo_shards, views):
    usual, crossed = (make(kind, photo_shards, views) for kind in (BatchMaker, Crossing))
    assert len(usual[0].batch.views) == len(views.views)
    assert all(map(same, usual, crossed))


def test_clips_take_the_same_ways_to_a_gpu(film_shards):
    usual = make(BatchMaker, film_shards, CLIPS, 2)
    assert all(map(same, usual, make(Crossing, film_shards, CLIPS, 2)))
    played, refused = (make(PlayedGPU, film_shards, CLIPS, 2, refused=which) for which in (set(), {3}))
    assert [each.num_refused for each in refused] == [SIZE, 0]
    assert same(refused[0], usual[0]) and same(refused[1], played[1])
    for one, other in zip(usual[1].batch.views, played[1].batch.views, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert ((one.float() - other.float()).abs() * 255 * 0.225).mean() < 1  # levels


def test_what_randaugment_and_erasing_do_is_mirrored_with_the_view(photo_shards):
    """So that a GPU's views are the CPU's, of those that are flipped and of the others."""
    usual, crossed = (make(kind, photo_shards, LABELLED) for kind in (BatchMaker, Crossing))
    assert all(map(same, usual, crossed))


def test_dali_leaves_the_flip_of_erased_views_to_the_end(photo_shards):
    """It resizes a little otherwise; the noise is the same, number by number."""
    usual, played = (
        torch.cat([each.batch.views[0] for each in made])
        for made in (make(BatchMaker, photo_shards, ERASED), make(PlayedGPU, photo_shards, ERASED, refused=set()))
    )
    plain = torch.cat([each.batch.views[0] for each in make(BatchMaker, photo_shards, PLAIN)])
    erased = (usual != plain).any(1, keepdim=True).expand_as(usual)
    assert 0.02 < erased.float().mean() < 0.4
    assert torch.equal(usual[erased], played[erased])
    assert ((usual - played).abs() * 255 * 0.225).mean((1, 2, 3)).max() < 0.5  # levels


def test_on_a_cpu_decode_says_nothing_new(photo_shards):
    auto, cpu = (make(BatchMaker, photo_shards, RANDOM, 2, decode=decode) for decode in ("auto", "cpu"))
    assert all(map(same, auto, cpu))


def test_views_may_be_bfloat16(photo_shards):
    whole, half = (make(Crossing, photo_shards, RANDOM, 1, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(whole[0].batch.views, half[0].batch.views, strict=True):
        assert other.dtype == torch.bfloat16 and torch.equal(one.bfloat16(), other)


def test_a_refused_batch_is_decoded_on_the_cpu_counted_and_named_once(photo_shards, caplog):
    with caplog.at_level(logging.WARNING, "eyespot"):
        made = make(PlayedGPU, photo_shards, RANDOM, 6, refused={13, 40})
    assert [each.num_refused for each in made] == [0, SIZE, 0, SIZE, 0, 0]
    assert [len(each.bad) for each in made] == [0] * 6
    usual = make(BatchMaker, photo_shards, RANDOM, 6)
    played = make(PlayedGPU, photo_shards, RANDOM, 6, refused=set())
    assert all(same(each, (usual if each.num_refused else played)[number]) for number, each in enumerate(made))
    assert not same(usual[1], played[1])
    (said,) = caplog.messages
    assert "data.decode auto: the GPU refused a batch (sample 12 (" in said and "nvJPEG error (6): unsupported)" in said


def test_a_gpu_that_refuses_all_is_asked_no_more(photo_shards, caplog):
    count = MOST_REFUSED + 5
    with caplog.at_level(logging.WARNING, "eyespot"):
        made = make(PlayedGPU, photo_shards, CENTER, count, refused=set(range(count * SIZE)))
    assert [each.num_refused for each in made] == [SIZE] * MOST_REFUSED + [0] * 5
    assert [each.batch.ids[0].item() for each in made] == list(range(0, count * SIZE, SIZE))
    assert "from here on the CPU decodes all" in caplog.messages[1]


def test_who_asks_for_the_gpu_alone_hears_of_a_refusal(photo_shards):
    with pytest.raises(RuntimeError, match="nvJPEG error"):
        make(PlayedGPU, photo_shards, CENTER, refused={13}, decode="gpu")


def test_a_lack_of_memory_is_no_refusal(photo_shards):
    with pytest.raises(MemoryError, match="Can't allocate 10 bytes on device 0"):
        make(PlayedGPU, photo_shards, CENTER, refused={13}, why="Critical error: Can't allocate 10 bytes on device 0.")


class Dead:
    """A stream or event of a GPU that has failed: as torch, it says so whatever it is asked."""

    def query(self) -> bool:
        return self.synchronize()

    def synchronize(self) -> Any:
        raise torch.AcceleratorError(
            "CUDA error: uncorrectable ECC error encountered\nCompile with `TORCH_USE_CUDA_DSA`"
        )


class FailedGPU(PlayedGPU):
    """From the first batch that it refuses on it is dead."""

    def _pipeline(self, number: int, shown: Any) -> Any:
        pipeline, maker = super()._pipeline(number, shown), self

        class Failing:
            def run(self) -> Any:
                try:
                    return pipeline.run()
                except RuntimeError:
                    maker._stream = Dead()
                    maker._being_read.append((Dead(), None))
                    raise

        return Failing()

    def _repair(self) -> bool:
        raise AssertionError("images are looked at, though the GPU is dead")


def test_a_dead_gpu_is_named_as_one_and_no_image_is_looked_at(photo_shards, caplog):
    """Neither is its batch decoded on the CPU, nor said to be refused; the supervisor knows torch's words."""
    why = "CUDA runtime API error cudaErrorECCUncorrectable (214):\nuncorrectable ECC error encountered"
    with pytest.raises(RuntimeError) as caught:
        make(FailedGPU, photo_shards, CENTER, refused={13}, why=why)
    said = "the GPU has failed, seen while images were decoded on it, none of which is at fault: "
    assert str(caught.value) == said + "CUDA error: uncorrectable ECC error encountered"
    assert "cudaErrorECCUncorrectable" in str(caught.value.__cause__)
    assert not caplog.messages


def test_trainer_losses_and_engines_need_no_dali():
    code = """
import sys
sys.modules["nvidia.dali"] = None
import eyespot.pretrain.trainer, eyespot.data_pipeline.loading.loader, eyespot.data_pipeline.augment.pipeline
import eyespot.pretrain.losses.contrastive, eyespot.pretrain.engines.ddp, eyespot.pretrain.engines.fsdp
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.loop.initial_weights import fresh_objective
fresh_objective(make_run("simclr_tiny"))
print([name for name in sys.modules if name.startswith("nvidia.dali")])
"""
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout) == (0, "['nvidia.dali']\n"), run.stderr


class Spoiled(BatchMaker):
    """One PNG's pixels are overwritten after it was read; notes which batch is the first in flight when DALI fails."""

    failed: ClassVar[list[list[int]]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._jobs = map(self._spoil, self._jobs)

    def _spoil(self, job: Any) -> Any:
        for sample, file in zip(job.ids.tolist(), job.parts[0].files, strict=True):
            if sample == 3 * SIZE + 5:
                file[41:-16] = b"x" * (len(file) - 57)
        return job

    def _repair(self) -> bool:
        self.failed.append(self._running[0].ids.tolist())
        return super()._repair()


def test_the_batch_that_dali_fails_at_is_the_first_in_flight(digit_shards):
    """So it is the one that the GPU has refused."""
    Spoiled.failed.clear()
    made = make(Spoiled, digit_shards, CENTER, 8)
    assert Spoiled.failed == [list(range(3 * SIZE, 4 * SIZE))]
    assert [len(each.bad) for each in made] == [0, 0, 0, 1, 0, 0, 0, 0]


def test_nvjpegs_settings_reach_the_gpus_graph(photo_shards):
    """Which can be made here, though not run."""
    config = NvjpegConfig(hw_decoder_load=0.875, hybrid_huffman_threshold=7, preallocate_mb=10_000)
    known = dict(batch_size=4, seed=0, device=torch.device("cpu"), num_threads=1, max_bad_fraction=0.1, nvjpeg=config)
    maker = BatchMaker(Reader(ShardFolder(photo_shards), substitute=True), [], CENTER, **known)
    maker._on_gpu, maker._device = True, torch.device("cuda:0")
    (pipeline,) = maker._pipelines()
    (resized,) = pipeline._graph_out
    told = str(resized.source.inputs[0].source.inputs[0].source.spec)  # of the decoder of whole images, then the slice
    maker.close()
    stats = ShardFolder(photo_shards).manifest.image_stats
    for line in (
        "device: mixed",
        "hw_decoder_load: 0.875",
        "hybrid_huffman_threshold: 7",
        f"preallocate_height_hint: {stats.height[2]}",
        f"preallocate_width_hint: {stats.width[2]}",
    ):
        assert line in told


@pytest.mark.parametrize(("size", "ahead"), [(32, 3), (65, 2), (180, 1)])
def test_finished_batches_that_wait_are_bounded_by_bytes(photo_shards, size, ahead):
    """Of 1 MB: three of 8 x 3 x 32 x 32 floats, two of 0.4 MB, one of 3 MB."""
    views = ViewSpec(views=(RandomView(size=size),))
    spec = LoaderSpec(shards=ShardFolder(photo_shards), views=views, batch_size=8, ready_mb=1, num_threads=1)
    loader = make_loader(spec)
    waiting = loader._worker._ready
    for _ in range(3):
        deadline = time.monotonic() + 60
        while waiting.qsize() < ahead and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert waiting.qsize() == ahead
        next(loader)
    loader.close()
    assert waiting.qsize() == 0


def test_threads_that_make_views_start_no_threads_and_change_no_others():
    torch.set_num_threads(3)  # as a program may that embeds us: applied to each thread at its first torch operation
    try:
        with ThreadPoolExecutor(2, initializer=_one_openmp_thread) as pool:
            barrier = threading.Barrier(2)

            def count() -> int:
                barrier.wait()
                torch.ones(1_000_000).mul_(2)
                return torch.get_num_threads()

            assert list(pool.map(lambda _: count(), range(2))) == [1, 1]
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(1)
