"""The last part of a GPU's views: what DALI has cropped, resized and mirrored is altered, normalised and erased.

What is moved or erased is mirrored here, at the very end, as on the CPU: else the noise would lie on the other side.
By two or three Triton kernels a view where these can do it, else by torch's operators one after another. Either way the
numbers of all views of a batch go to the GPU by one copy from pinned memory, and nobody waits for it.
"""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from eyespot.data_pipeline.augment.one_copy import copied
from eyespot.data_pipeline.augment.pipeline import Alteration, planned
from eyespot.data_pipeline.augment.random_erasing import erasing_noise, overwrite
from eyespot.data_pipeline.augment.view_tables import ViewTables, view_tables
from eyespot.data_pipeline.augment.views import Color
from eyespot.data_pipeline.loading.resize import offset_and_factor

log = logging.getLogger("eyespot")

AGREED = 1e-3
"""Largest difference of normalised values between kernels and torch's operators; in float32 they should have none."""
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7}
"""Of the views' type, as a share of a value."""
NUM_TRIED = 8
"""Views of each kind that are made both ways."""


def finish_by_torch(
    pixels: UInt8[Tensor, "b 3 h w"], alteration: Alteration | None, mean: Color, std: Color
) -> Float32[Tensor, "b 3 h w"]:
    """The reference: one view of each image, altered and normalised by torch's operators, in memory of its own."""
    work = _TorchWork(alteration, pixels.shape[3], mean, std)
    return work.finished(pixels, copied(work.arrays, pixels.device), torch.float32)


class ViewFinisher:
    """Finishes the views of batch after batch.

    Some images of the first batch are made both ways: where Triton cannot compile its kernels on this machine, or they
    give something else, that is said once, and torch's operators make the views.
    """

    def __init__(self, mean: Color, std: Color, *, dtype: torch.dtype = torch.float32):
        """Compiles nothing yet.

        Args:
            mean: per channel, pixel values in 0..1.
            std: per channel, pixel values in 0..1.
            dtype: of the views, float32 or bfloat16.
        """
        self._mean, self._std, self._dtype = mean, std, dtype
        self._proven: dict[tuple[int, ...], bool] = {}
        """Of the sizes of views and the kernels that they need, whether these do what torch does."""

    def __call__(
        self,
        pixels: Sequence[UInt8[Tensor, "b 3 _ _"]],
        alterations: Sequence[Alteration | None],
        others: Sequence[np.ndarray] = (),
        flip: Sequence[Bool[np.ndarray, " b"]] = (),
    ) -> tuple[list[Float[Tensor, "b 3 _ _"]], list[Tensor]]:
        """The views, channels last, and other arrays that travel with their numbers.

        Args:
            pixels: of each view, all on one device.
            alterations: of each view.
            others: are to come to that device, too.
            flip: of each view, who is mirrored at the end; none given = nobody is.
        """
        mirrored = [np.flatnonzero(each) for each in flip]
        works = [self._work(*view) for view in zip(pixels, alterations, strict=True)]
        arrays = [*others, *mirrored, *(array for work in works for array in work.arrays)]
        numbers = iter(copied(arrays, pixels[0].device))
        arrived = [next(numbers).clone() for _ in others]  # else they would keep all numbers in memory
        rows = [next(numbers) for _ in mirrored]
        views = [
            work.finished(view, [next(numbers) for _ in work.arrays], self._dtype)
            for work, view in zip(works, pixels, strict=True)
        ]
        for view, some in zip(views, rows, strict=bool(flip)):
            if len(some):
                view.index_copy_(0, some, view.index_select(0, some).flip(3))
        return views, arrived

    def _work(self, pixels: UInt8[Tensor, "b 3 h w"], alteration: Alteration | None) -> "_TorchWork | _KernelWork":
        size = pixels.shape[3]
        tables = view_tables(alteration, len(pixels), size) if kernels_can_run(pixels.device) else None
        if tables is not None:
            case = size, *tables.kernels
            if case not in self._proven:
                self._proven[case] = self._agree(tables, pixels, alteration)
            if self._proven[case]:
                return _KernelWork(tables, self._mean, self._std)
        return _TorchWork(alteration, size, self._mean, self._std)

    def _agree(self, tables: ViewTables, pixels: UInt8[Tensor, "b 3 h w"], alteration: Alteration | None) -> bool:
        """Makes a few views of each kind both ways."""
        kinds = tables.gray_rows, tables.sharp_rows, tables.blurred_rows
        rows = np.unique(np.concatenate([kind[:NUM_TRIED] for kind in kinds])).astype(np.int64)
        few = pixels.index_select(0, torch.from_numpy(rows).to(pixels.device))
        same = alteration and Alteration(steps=alteration.steps[rows], amounts=alteration.amounts[rows])
        expected, tried = finish_by_torch(few, same, self._mean, self._std), view_tables(same, len(few), few.shape[3])
        assert tried is not None and tried.kernels == tables.kernels
        work = _KernelWork(tried, self._mean, self._std)
        try:
            found = work.finished(few, copied(work.arrays, few.device), self._dtype)
            right = torch.isclose(found.float(), expected, rtol=ROUNDING[self._dtype], atol=AGREED).all().item()
            why = "they give other values"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a compiler, a driver, a file system
            right, why = False, f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"
        if not right:
            log.warning(
                "views are made by hundreds of small kernels, which takes longer: Triton's own do not work here (%s)",
                why,
            )
        return bool(right)


def kernels_can_run(device: torch.device) -> bool:
    """Whether there is a real GPU, or Triton is told to interpret; and Triton, which torch's Linux wheels bring."""
    real = device.type == "cuda" and torch.cuda.is_available()
    return (real or os.environ.get("TRITON_INTERPRET") == "1") and find_spec("triton") is not None


class _TorchWork:
    """One view of each image by torch's operators."""

    def __init__(self, alteration: Alteration | None, size: int, mean: Color, std: Color):
        self._plan = alteration and planned(alteration, size)
        self._erasing = alteration and alteration.erasing
        self.arrays = [
            *offset_and_factor(mean, std),
            *([erasing_noise(self._erasing)] if self._erasing else []),
            *(self._plan.arrays if self._plan else []),
        ]

    def finished(
        self, pixels: UInt8[Tensor, "b 3 h w"], numbers: list[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "b 3 h w"]:
        levels = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        offset, factor, *rest = numbers
        noise = rest.pop(0) if self._erasing else None
        if self._plan:
            self._plan.carry_out(levels, rest)
        out = torch.empty_like(levels, dtype=dtype, memory_format=torch.channels_last)
        torch.mul(levels.sub_(offset), factor, out=out)
        if self._erasing and noise is not None:
            overwrite(out, self._erasing, noise)
        return out


class _KernelWork:
    """One view of each image by Triton's kernels."""

    def __init__(self, tables: ViewTables, mean: Color, std: Color):
        self._tables, self.arrays = tables, tables.arrays
        self._offset, self._factor = (each.ravel().tolist() for each in offset_and_factor(mean, std))

    def finished(
        self, pixels: UInt8[Tensor, "b 3 h w"], numbers: list[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "b 3 h w"]:
        from eyespot.data_pipeline.augment.view_kernels import finish_by_kernels  # with Triton, which needs a GPU

        out = torch.empty(pixels.shape, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
        channels_last = pixels.permute(0, 2, 3, 1).contiguous()
        finish_by_kernels(channels_last, self._tables, numbers, self._offset, self._factor, out)
        return out
