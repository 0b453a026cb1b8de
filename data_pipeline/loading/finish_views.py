"""The last part of a GPU's views: what DALI has cropped, resized and mirrored is altered, normalised and erased.

What is moved or erased is mirrored here, at the very end, as on the CPU: else the noise would lie on the other side.
By one to eight Triton kernels a view where these can do it, else by torch's operators one after another. Either way the
numbers of all views of a batch go to the GPU by one copy from pinned memory, and nobody waits for it.
"""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor

from eyespot.data_pipeline.augment.one_copy import copied
from eyespot.data_pipeline.augment.pipeline import Alteration, planned
from eyespot.data_pipeline.augment.rand_augment import NUM_STEPS
from eyespot.data_pipeline.augment.rand_augment_tables import proving_steps
from eyespot.data_pipeline.augment.random_erasing import erasing_noise, overwrite
from eyespot.data_pipeline.augment.simclr_steps import add_noise, cut_out
from eyespot.data_pipeline.augment.view_tables import NUM_COLOR_ARRAYS, ViewTables, view_tables
from eyespot.data_pipeline.augment.views import Color
from eyespot.data_pipeline.loading.resize import offset_and_factor

log = logging.getLogger("eyespot")

AGREED = 1e-3
"""Largest difference of normalised values between kernels and torch's operators; in float32 they should have none."""
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7}
"""Of the views' type, as a share of a value."""
AS_LEVELS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""What is taken away from levels, and by what they are multiplied, so that they stay levels."""
NUM_TRIED = 8
"""Views of each kind that are made both ways."""


def finish_by_torch(
    pixels: Shaped[Tensor, "b c h w"], alteration: Alteration | None, mean: Color, std: Color
) -> Float32[Tensor, "b c h w"]:
    """The reference: one view of each image, altered and normalised by torch's operators, in memory of its own."""
    work = _TorchWork(alteration, pixels.shape[3], mean, std, None)
    return work.made(pixels, torch.float32)


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
        pixels: Sequence[Shaped[Tensor, "_ c _ _"]],
        alterations: Sequence[Alteration | None],
        others: Sequence[np.ndarray] = (),
        flip: Sequence[Bool[np.ndarray, " _"]] = (),
    ) -> tuple[list[Float[Tensor, "_ c _ _"]], list[Tensor]]:
        """The views, channels last, and other arrays that travel with their numbers.

        Args:
            pixels: of each view, all on one device: 8-bit levels, or levels 0..255 in float32.
            alterations: of each view.
            others: are to come to that device, too.
            flip: of each view, who is mirrored at the end; none given = nobody is.
        """
        last = [None] * len(pixels) if not flip else [each if each.any() else None for each in flip]
        works = [self._work(*view) for view in zip(pixels, alterations, last, strict=True)]
        arrays = [*others, *(array for work in works for array in work.arrays)]
        numbers = iter(copied(arrays, pixels[0].device))
        arrived = [next(numbers).clone() for _ in others]  # else they would keep all numbers in memory
        views = [
            work.finished(view, [next(numbers) for _ in work.arrays], self._dtype)
            for work, view in zip(works, pixels, strict=True)
        ]
        return views, arrived

    def _work(
        self, pixels: Shaped[Tensor, "b c h w"], alteration: Alteration | None, mirrored: Bool[np.ndarray, " b"] | None
    ) -> "_TorchWork | _KernelWork":
        size = pixels.shape[3]
        of_rgb = pixels.dtype == torch.uint8 and pixels.shape[1] == 3
        can_run = of_rgb and kernels_can_run(pixels.device)
        tables = view_tables(alteration, len(pixels), size, mirrored) if can_run else None
        if tables is not None:
            case = size, *tables.kernels
            if case not in self._proven:
                self._proven[case] = self._agree(tables, pixels, alteration, mirrored)
            if self._proven[case]:
                return _KernelWork(tables, self._mean, self._std)
        return _TorchWork(alteration, size, self._mean, self._std, mirrored)

    def _agree(
        self,
        tables: ViewTables,
        pixels: Shaped[Tensor, "b c h w"],
        alteration: Alteration | None,
        mirrored: Bool[np.ndarray, " b"] | None,
    ) -> bool:
        """Makes a few views of each kind both ways; of RandAugment, every step and some pairs instead of those drawn.

        For what is drawn, a posterize after a rotation say, may make a rounding as large as half the levels.
        """
        ended = np.flatnonzero(tables.ends[:, [2, 5]].any(1))[:NUM_TRIED]  # erased, or mirrored
        kinds = tables.gray_rows, tables.sharp_rows, tables.blurred_rows, ended
        rows = np.unique(np.concatenate([kind[:NUM_TRIED] for kind in kinds])).astype(np.int64)
        steps, amounts = proving_steps()
        if tables.augment:
            rows = np.concatenate([ended, np.setdiff1d(np.arange(len(pixels)), ended)])
            rows = rows[np.arange(len(steps)) % len(pixels)]
        same = alteration and alteration.rows(rows)
        if tables.augment and same is not None:
            same.steps[:, :NUM_STEPS], same.amounts[:, :NUM_STEPS] = steps, amounts
        few = pixels.index_select(0, torch.from_numpy(rows).to(pixels.device))
        some = None if mirrored is None else mirrored[rows]
        expected = _TorchWork(same, few.shape[3], self._mean, self._std, some).made(few, torch.float32)
        tried = view_tables(same, len(few), few.shape[3], some)
        assert tried is not None
        try:
            found = _KernelWork(tried, self._mean, self._std).made(few, self._dtype)
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


class _Work:
    """One view of each image, in two parts: the numbers of all views of a batch travel together in between."""

    arrays: list[np.ndarray]
    """What has to be on the pixels' device."""

    def finished(
        self, pixels: Shaped[Tensor, "b c h w"], numbers: list[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "b c h w"]:
        """The views, with ``arrays`` as tensors there."""
        raise NotImplementedError

    def made(self, pixels: Shaped[Tensor, "b c h w"], dtype: torch.dtype) -> Float[Tensor, "b c h w"]:
        """The views alone."""
        return self.finished(pixels, copied(self.arrays, pixels.device), dtype)


class _TorchWork(_Work):
    """By torch's operators."""

    def __init__(
        self,
        alteration: Alteration | None,
        size: int,
        mean: Color,
        std: Color,
        mirrored: Bool[np.ndarray, " b"] | None,
    ):
        self._plan = alteration and planned(alteration, size)
        self._erasing = alteration and alteration.erasing
        self._cutout = None if alteration is None else alteration.cutout
        gaussian = alteration and alteration.noise
        self._noisy = gaussian is not None
        self._mirrored = mirrored is not None
        self.arrays = [
            *offset_and_factor(mean, std),
            *([np.flatnonzero(mirrored)] if mirrored is not None else []),
            *([erasing_noise(self._erasing, len(mean))] if self._erasing else []),
            *(gaussian.arrays(size, len(mean)) if gaussian else []),
            *(self._plan.arrays if self._plan else []),
        ]

    def finished(
        self, pixels: Shaped[Tensor, "b c h w"], numbers: list[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "b c h w"]:
        levels = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        offset, factor, *rest = numbers
        mirrored = rest.pop(0) if self._mirrored else None
        noise = rest.pop(0) if self._erasing else None
        gaussian = [rest.pop(0), rest.pop(0)] if self._noisy else None
        if self._plan:
            self._plan.carry_out(levels, rest)
        if gaussian is not None:
            add_noise(levels, *gaussian)
        out = torch.empty_like(levels, dtype=dtype, memory_format=torch.channels_last)
        torch.mul(levels.sub_(offset), factor, out=out)
        if self._cutout is not None:
            cut_out(out, self._cutout)
        if self._erasing and noise is not None:
            overwrite(out, self._erasing, noise)
        if mirrored is not None:
            out.index_copy_(0, mirrored, out.index_select(0, mirrored).flip(3))
        return out


class _KernelWork(_Work):
    """By Triton's kernels."""

    def __init__(self, tables: ViewTables, mean: Color, std: Color):
        self._tables, self.arrays = tables, tables.arrays
        self._offset, self._factor = (each.ravel().tolist() for each in offset_and_factor(mean, std))

    def finished(
        self, pixels: Shaped[Tensor, "b c h w"], numbers: list[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "b c h w"]:
        # here, for they import Triton, which needs a GPU
        from eyespot.data_pipeline.augment.rand_augment_kernels import augment_by_kernels
        from eyespot.data_pipeline.augment.view_kernels import finish_by_kernels

        out = torch.empty(pixels.shape, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
        source, tables = pixels.permute(0, 2, 3, 1).contiguous(), self._tables
        colors, augment = numbers[:NUM_COLOR_ARRAYS], numbers[NUM_COLOR_ARRAYS:]
        ends, noise, *_ = colors
        if tables.augment and not tables.steps.shape[1]:
            augment_by_kernels(source, tables.augment, augment, self._offset, self._factor, ends, noise, out)
            return out
        if tables.augment:
            levels = torch.empty_like(out, dtype=torch.float32)
            augment_by_kernels(source, tables.augment, augment, *AS_LEVELS, ends[:0], noise, levels)
            source = levels.permute(0, 2, 3, 1)
        finish_by_kernels(source, tables, colors, self._offset, self._factor, out)
        return out
