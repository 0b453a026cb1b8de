"""From crops to views on the CPU: resize, cut, alter, normalise, erase, flip.

Torch's 8-bit bicubic kernel is up to five times faster than DALI's, and gives exactly what torchvision gives
(docs/decisions/0004-where-views-are-made.md). On a GPU, DALI resizes and mirrors; the rest is in finish_views.py.
"""

import weakref
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Shaped, UInt8, UInt16
from torch import Tensor

from eyespot.data_pipeline.augment.crop_geometry import Geometry
from eyespot.data_pipeline.augment.one_copy import copied
from eyespot.data_pipeline.augment.pipeline import Alteration, alter
from eyespot.data_pipeline.augment.random_erasing import erase
from eyespot.data_pipeline.augment.simclr_steps import add_noise, cut_out
from eyespot.data_pipeline.augment.views import Color

Levels8or16 = UInt8[np.ndarray, "_ _ _"] | UInt16[np.ndarray, "_ _ _"]
"""A region of an image, channels last."""
DEEP = 257
"""Values of 16 bits in a level of 8: white is 255 levels of either."""
SMALL = 160
"""Below this size, pixels, views are made many at once, to save calls; others one by one, while they are in cache."""
GROUP_PIXELS = 2**18
"""Of so many small views at once."""


@torch.inference_mode()
def resize_views(
    crops: Sequence[Levels8or16],
    geometry: Geometry,
    alteration: Alteration | None,
    mean: Color,
    std: Color,
    out: Float32[np.ndarray, "b c size size"],
) -> None:
    """Writes one view of each image into ``out``.

    Args:
        crops: the regions that ``geometry`` names, already cut out; RGB, or bands.
        geometry: of the view.
        alteration: of the view.
        mean: per channel, pixel values in 0..1.
        std: per channel, pixel values in 0..1.
        out: where the views go.
    """
    size = out.shape[-1]
    step = GROUP_PIXELS // size**2 if size < SMALL else 1
    for begin in range(0, len(crops), step):
        rows = slice(begin, begin + step)
        views, flip = out[rows], geometry.flip[rows]
        levels = torch.from_numpy(views).copy_(torch.cat(_resized(crops[rows], geometry.rows(rows), size)))
        _finish(levels, alteration and alteration.rows(rows), mean, std)
        fill_borders(levels, geometry.rows(rows), mean, std)
        views[flip] = views[flip, :, :, ::-1]  # cheaper than before the copy, when channels still came last


@torch.inference_mode()
def resize_pixels(crops: Sequence[Levels8or16], geometry: Geometry, out: Shaped[np.ndarray, "b size size c"]) -> None:
    """Writes one view of each image into ``out``, flipped unless that comes last: what DALI makes on a GPU.

    Levels 0..255: of 8 bits whole ones, in 8 bits; of 16 bits in float32.

    ``ViewFinisher`` and ``fill_borders`` make of it what ``resize_views`` gives, which flips all of them last.
    """
    size = out.shape[1]
    step = GROUP_PIXELS // size**2 if size < SMALL else 1
    for begin in range(0, len(crops), step):
        rows = slice(begin, begin + step)
        pixels = torch.cat(_resized(crops[rows], geometry.rows(rows), size))
        out[rows] = pixels.permute(0, 2, 3, 1).numpy()
    flip = geometry.flip_resized
    out[flip] = out[flip, :, ::-1]


def _resized(crops: Sequence[Levels8or16], geometry: Geometry, size: int) -> list[Shaped[Tensor, "1 c size size"]]:
    views: list[Tensor] = []
    for crop, shape, (top, left) in zip(crops, geometry.resized.tolist(), geometry.offset.tolist(), strict=True):
        pixels = _of_shape(crop, shape, geometry.interpolation)
        if top < 0 or left < 0:  # the ground around it is filled last
            pixels = F.pad(pixels, (max(-left, 0), size, max(-top, 0), size))
            top, left = max(top, 0), max(left, 0)
        views.append(pixels if shape == [size, size] else pixels[:, :, top : top + size, left : left + size])
    return views


def _of_shape(crop: Levels8or16, shape: list[int], interpolation: str) -> Shaped[Tensor, "1 c h w"]:
    """The whole crop, resized. Values of 16 bits are rounded to such as 8-bit ones are; at their own size they stay."""
    image = torch.from_numpy(crop[None])  # torch sees that channels come last: twice as fast
    if crop.dtype == np.uint8:
        return F.interpolate(image.permute(0, 3, 1, 2), shape, mode=interpolation, antialias=True)
    values = image.float().permute(0, 3, 1, 2)
    if list(crop.shape[:2]) != shape:
        values = F.interpolate(values, shape, mode=interpolation, antialias=True).round_().clamp_(0, DEEP * 255)
    return values.div_(DEEP)


def fill_borders(views: Float[Tensor, "b c h w"], geometry: Geometry, mean: Color, std: Color) -> None:
    """Gives what lies outside of the resized images the mean colour, as timm rounds it; in place, normalised views."""
    if (geometry.offset >= 0).all():
        return
    offset, factor = offset_and_factor(mean, std)
    rounded = (offset.round() - offset) * factor if len(mean) == 3 else np.zeros_like(offset)
    (ground,) = copied([rounded], views.device)
    for view, (top, left), (height, width) in zip(
        views, (-geometry.offset).tolist(), geometry.resized.tolist(), strict=True
    ):
        for outside in (view[:, :top] if top > 0 else view[:, :0], view[:, max(top + height, 0) :]):
            outside.copy_(ground.expand_as(outside))
        for outside in (view[:, :, :left] if left > 0 else view[:, :, :0], view[:, :, max(left + width, 0) :]):
            outside.copy_(ground.expand_as(outside))


def _finish(levels: Float32[Tensor, "b c h w"], alteration: Alteration | None, mean: Color, std: Color) -> None:
    if alteration is not None:
        alter(levels, alteration)
        if alteration.noise is not None:
            add_noise(levels, *map(torch.from_numpy, alteration.noise.arrays(levels.shape[3], levels.shape[1])))
    offset, factor = map(torch.from_numpy, offset_and_factor(mean, std))
    levels.sub_(offset).mul_(factor)
    if alteration is not None and alteration.cutout is not None:
        cut_out(levels, alteration.cutout)
    if alteration is not None and alteration.erasing is not None:
        erase(levels, alteration.erasing)


@lru_cache
def offset_and_factor(mean: Color, std: Color) -> tuple[Float32[np.ndarray, "c 1 1"], Float32[np.ndarray, "c 1 1"]]:
    """What is subtracted from 8-bit levels of each channel, and what they are multiplied by then."""
    levels_mean, levels_std = (255 * np.array(color, np.float32)[:, None, None] for color in (mean, std))
    return levels_mean, 1 / levels_std


class Buffers:
    """Memory for views that is used again once nobody holds them.

    Fresh memory for every batch would cost as much as the resize: the system hands out large blocks page by page.
    """

    def __init__(self) -> None:
        self._free: list[Float32[np.ndarray, "b c size size"]] = []

    def take(self, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """An uninitialised float32 tensor; its memory comes back when the last reference to it is gone."""
        for place, buffer in enumerate(self._free):
            if buffer.shape == shape:
                del self._free[place]
                break
        else:
            buffer = np.empty(shape, np.float32)
        lent = buffer[:]
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return torch.from_numpy(lent)
