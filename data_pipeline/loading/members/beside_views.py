"""What views show beside the images: masks, captions. Made on the CPU, while the images are decoded."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from eyespot.data_pipeline.augment.views import MaskView, TextView, ViewSpec
from eyespot.data_pipeline.loading.jobs import Job, MemberPart
from eyespot.data_pipeline.loading.mask_views import see_masks
from eyespot.data_pipeline.loading.members.text_views import see_texts
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.shards.members.captions import BadMember, captions_of


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
        """By number of the view: 8-bit masks (files, 1, size, size), token ids (B, context).

        Raises:
            RuntimeError: a file cannot be decoded.
        """
        made: dict[int, Tensor] = {}
        tasks: list[Future[None]] = []
        for part in job.parts:
            for number in part.shown.masks:
                view, size = self._views.views[number], self._views.shown(number).size
                assert isinstance(view, MaskView)
                place = part.geometry[part.shown.views.index(view.of)]
                made[number] = out = torch.empty((len(part.masks), 1, size, size), dtype=torch.uint8)
                see = partial(see_masks, part.masks, place, out.numpy()[:, 0], self._files.ignored)
                tasks += [self._pool.submit(see, rows) for rows in parts(len(out), self._num_threads)]
        for part in job.members:
            for number in part.shown.views:
                made[number], more = self._members(job, part, number)
                tasks += more
        for task in tasks:
            task.result()
        return made

    def _members(self, job: Job, part: MemberPart, number: int) -> tuple[Tensor, list[Future[None]]]:
        view = self._views.views[number]
        assert isinstance(view, TextView)
        out = torch.empty((len(part.files), view.context), dtype=torch.int64)
        tokens, name = load_tokenizer(view.tokenizer, view.context), f"view{number}"
        see = partial(see_texts, part.files, view, tokens, name, self._seed, job.epochs, part.samples, out.numpy())
        return out, [self._pool.submit(see, rows) for rows in parts(len(out), self._num_threads)]

    def undecodable(self, job: Job) -> Iterator[tuple[int, int, str]]:
        """Sample, row and what is wrong with it, of each member that cannot be decoded."""
        for part in job.members:
            for sample, row, file in zip(part.samples.tolist(), part.rows.tolist(), part.files, strict=True):
                try:
                    captions_of(file)
                except BadMember as error:
                    yield sample, row, str(error)


def parts(count: int, num_threads: int) -> list[slice]:
    """So many rows, divided among the threads."""
    size = max(1, -(-count // num_threads))
    return [slice(begin, begin + size) for begin in range(0, count, size)]
