"""Films drawn on the fly: each pixel says which sample, frame, camera and class it is of."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.shards.members.footage import Footage
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.pack import pack

HEIGHT, WIDTH = 32, 40
STREAMS = ("left", "right")
COUNTS = (12, 1, 3, 20, 7, 9, 30, 5)
"""Frames of film n: COUNTS[n % 8]."""


def square(film: int, frame: int) -> np.ndarray:
    """(H, W) of 0 and 1: something that moves."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left = 2 + film % 8, (3 * frame + film) % 24
    found[top : top + 14, left : left + 12] = 1
    return found


def _png(levels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()


def _film(number: int, streams: tuple[str, ...], masks: bool) -> Item:
    count = COUNTS[number % 8]
    squares = [square(number, frame) for frame in range(count)]
    frames = {
        stream: [
            _png(np.stack([40 + 180 * there, 0 * there + 8 * frame, 0 * there + 8 * number + 4 * place], axis=2))
            for frame, there in enumerate(squares)
        ]
        for place, stream in enumerate(streams)
    }
    masked = {
        stream: [None if frame % 3 == 2 else _png(there) for frame, there in enumerate(squares)] for stream in streams
    }
    film = Footage(rate=8.0, frames=frames, masks=masked if masks else {})
    return Item(f"film {number}", number % 2, "", 0, 0, frames=film)


def pack_films(folder: Path, count: int = 24, streams: tuple[str, ...] = STREAMS, *, masks: bool = True) -> Path:
    """Packs films, five to a tar, and returns the folder: sample n of it is some film, see ``told``."""
    items = [_film(number, streams, masks) for number in range(count)]
    pack(lambda _: Source(name="films", splits={"": items}, classes=["a", "b"]), folder, max_samples=5)
    return folder


def told(view: Tensor, spec: ViewSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Film, frame and camera that each image of a view shows, all of whose colours are unchanged.

    Args:
        view: (..., 3, H, W), normalised.
        spec: of the view.
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    _, green, blue = (
        (255 * (view * std + mean)).round().long()[..., view.shape[-2] // 2, view.shape[-1] // 2].unbind(-1)
    )
    return blue // 8, green // 8, blue % 8 // 4
