"""From crops to views on the CPU: resize, cut, flip, normalise.

DALI's resize is the bottleneck of a CPU pipeline; torch's 8-bit bicubic kernel does the same five times faster, and
gives exactly what torchvision gives. On a GPU the whole graph stays in DALI (see dali.py).
"""

import weakref
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8

from eyespot.data_pipeline.crops import Geometry
from eyespot.data_pipeline.views import Color


@torch.inference_mode()
def resize_views(
    crops: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    geometry: Geometry,
    mean: Color,
    std: Color,
    out: Float32[np.ndarray, "b 3 size size"],
) -> None:
    """Writes one view of each image into ``out``.

    Args:
        crops: the regions that ``geometry`` names, already cut out; RGB.
        geometry: of the view.
        mean: per channel, pixel values in 0..1.
        std: per channel, pixel values in 0..1.
        out: where the views go.
    """
    size = out.shape[-1]
    offset = 255 * np.array(mean, np.float32)[:, None, None]
    factor = 1 / (255 * np.array(std, np.float32)[:, None, None])
    places = zip(geometry.resized.tolist(), geometry.offset.tolist(), geometry.flip.tolist(), strict=True)
    for crop, view, (resized, (top, left), flip) in zip(crops, out, places, strict=True):
        image = torch.from_numpy(crop).permute(2, 0, 1)[None]
        pixels = F.interpolate(image, resized, mode="bicubic", antialias=True)[0].numpy()
        pixels = pixels[:, top : top + size, left : left + size]
        np.subtract(pixels[:, :, ::-1] if flip else pixels, offset, out=view)
        view *= factor


class Buffers:
    """Memory for views that is used again once nobody holds them.

    Fresh memory for every batch would cost as much as the resize: the system hands out large blocks page by page.
    """

    def __init__(self) -> None:
        self._free: list[Float32[np.ndarray, "b 3 size size"]] = []

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
