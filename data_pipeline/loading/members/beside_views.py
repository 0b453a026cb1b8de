"""What views show beside the images: masks, captions, depth, sound. Made on the CPU, while the images are decoded."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from eyespot.data_pipeline.augment.crop_geometry import Geometry
from eyespot.data_pipeline.augment.views import AudioView, DepthView, MaskView, TextView, ViewSpec
from eyespot.data_pipeline.loading.jobs import Job, MemberPart
from eyespot.data_pipeline.loading.mask_views import see_masks
from eyespot.data_pipeline.loading.members.depth_views import see_depths
from eyespot.data_pipeline.loading.members.sound_views import see_sounds
from eyespot.data_pipeline.loading.members.text_views import see_texts
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.shards.members.captions import BadMember, captions_of
from eyespot.data_pipeline.shards.members.depth_maps import open_depth
from eyespot.data_pipeline.shards.members.sounds import CONTAINERS, check_sound


class BesideViews:
    """Makes those views of a job that show no images.

    Args:
        views: all views.
        files: of them.
        seed: of the run.
        pool: whose threads do it.
        num_threads: that it has.
    """

    def __init__(self, views: ViewSpec, files: SampleFiles, seed: int, pool: ThreadPoolExecutor, num_threads: int):
        self._views, self._files, self._seed = views, files, seed
        self._pool, self._num_threads = pool, num_threads

    def __call__(self, job: Job) -> dict[int, Tensor]:
        """By number of the view: 8-bit masks (files, 1, size, size), token ids (B, context), depth (B, 1, size, size),
        spectrograms (B, 1, mels, columns).

        Raises:
            RuntimeError: a file cannot be decoded.
        """
        made: dict[int, Tensor] = {}
        tasks: list[Future[None]] = []
        places: dict[int, Geometry] = {}
        for part in job.parts:
            places |= zip(part.shown.views, part.geometry, strict=True)
            for number in part.shown.masks:
                view, size = self._views.views[number], self._views.shown(number).size
                assert isinstance(view, MaskView)
                made[number] = out = torch.empty((len(part.masks), 1, size, size), dtype=torch.uint8)
                see = partial(see_masks, part.masks, places[view.of], out.numpy()[:, 0], self._files.ignored)
                tasks += [self._pool.submit(see, rows) for rows in parts(len(out), self._num_threads)]
        for part in job.members:
            for number in part.shown.views:
                made[number], see = self._member(job, part, number, places)
                tasks += [self._pool.submit(see, rows) for rows in parts(len(part.files), self._num_threads)]
        for task in tasks:
            task.result()
        return made

    def _member(
        self, job: Job, part: MemberPart, number: int, places: dict[int, Geometry]
    ) -> tuple[Tensor, Callable[[slice], None]]:
        """Room for a view, and what fills some rows of it."""
        view, count = self._views.views[number], len(part.files)
        shape = (count, *view.shape(self._views.views))
        if isinstance(view, DepthView):
            out = torch.empty(shape, dtype=torch.float32)
            return out, partial(see_depths, part.files, places[view.of], view.scale, out.numpy())
        drawn = (f"view{number}", self._seed, job.epochs, part.samples)
        if isinstance(view, AudioView):
            out = torch.empty(shape, dtype=torch.float32)
            clip = self._views.clip(view.of) if view.of is not None else None
            begins = self._files.begins(clip, part.samples, job.epochs) if clip is not None else None
            return out, partial(see_sounds, part.files, view, *drawn, begins, out.numpy())
        assert isinstance(view, TextView)
        out, tokens = torch.empty(shape, dtype=torch.int64), load_tokenizer(view.tokenizer, view.context)
        return out, partial(see_texts, part.files, view, tokens, *drawn, out.numpy())

    def undecodable(self, job: Job) -> Iterator[tuple[int, int, str]]:
        """Sample, row and what is wrong with it, of each member that cannot be decoded."""
        for part in job.members:
            for sample, row, file in zip(part.samples.tolist(), part.rows.tolist(), part.files, strict=True):
                try:
                    DECODE[part.shown.extension](file)
                except BadMember as error:
                    yield sample, row, str(error)


DECODE: Mapping[str, Callable[[bytearray], object]] = {
    "txt": captions_of,
    "depth.png": open_depth,
    **{extension: check_sound(extension) for extension in CONTAINERS},
}
"""What tells whether a member can be decoded."""


def parts(count: int, num_threads: int) -> list[slice]:
    """So many rows, divided among the threads."""
    size = max(1, -(-count // num_threads))
    return [slice(begin, begin + size) for begin in range(0, count, size)]
