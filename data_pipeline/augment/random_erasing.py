"""Random Erasing: a rectangle of the finished view is overwritten with noise (Zhong et al. 2020, arXiv:1708.04896).

The rectangle is the authors', the noise that of timm's "pixel" mode, which DeiT, BEiT and MAE use: standard normal
numbers, one per pixel and channel, in the values that the encoder sees.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32, Integer
from torch import Tensor

from eyespot.data_pipeline.augment.one_copy import copied
from eyespot.data_pipeline.random_numbers import normals, uniforms

AREA = (0.02, 1 / 3)
"""Smallest and largest share of the view's area."""
MAX_ASPECT = 1 / 0.3
"""Largest height / width, and width / height."""
NUM_TRIES = 10
NUM_DRAWS = 1 + 2 + 2 * NUM_TRIES
"""Per view: erased or not, position (vertical, horizontal), then area and aspect ratio of each try."""


@dataclass(kw_only=True, slots=True)
class Erasing:
    """What is overwritten in one view of each image of a batch, and which samples' noise comes there."""

    boxes: Int32[np.ndarray, "b 4"]
    """Top, left, height, width, pixels; without height nothing is."""
    seed: int
    """Of the noise."""
    epochs: Integer[np.ndarray, " b"]
    """Of the noise."""
    ids: Integer[np.ndarray, " b"]
    """Of the noise: whose it is."""
    stream: str
    """Of the noise."""

    def rows(self, rows: slice | Integer[np.ndarray, " n"]) -> "Erasing":
        """The erasing of some of the images."""
        return Erasing(
            boxes=self.boxes[rows],
            seed=self.seed,
            epochs=self.epochs[rows],
            ids=self.ids[rows],
            stream=self.stream,
        )


def view_erasing(
    probability: float,
    size: int,
    name: str,
    seed: int,
    epochs: Integer[np.ndarray, " b"],
    ids: Integer[np.ndarray, " b"],
) -> Erasing:
    """What to erase of the view ``name`` of each sample: a pure function of (seed, epoch, id, name).

    Args:
        probability: that anything is.
        size: of the view, pixels.
        name: of the view.
        seed: of the run.
        epochs: how often each sample had been seen before.
        ids: of the samples.
    """
    boxes = random_boxes(probability, size, uniforms(seed, epochs, ids, f"{name}/erase", NUM_DRAWS))
    return Erasing(boxes=boxes, seed=seed, epochs=epochs, ids=ids, stream=f"{name}/noise")


def random_boxes(probability: float, size: int, numbers: Float32[np.ndarray, "b 23"]) -> Int32[np.ndarray, "b 4"]:
    """Top, left, height and width: the first of up to ten tries that is smaller than the view; all 0 = nothing."""
    tries = numbers[:, 3:].reshape(-1, NUM_TRIES, 2).astype(np.float64)
    areas = size**2 * (AREA[0] + (AREA[1] - AREA[0]) * tries[:, :, 0])
    aspects = MAX_ASPECT ** (2 * tries[:, :, 1] - 1)
    shapes = np.stack([np.round(np.sqrt(areas * aspects)), np.round(np.sqrt(areas / aspects))], axis=2)
    fits = shapes.max(2) < size
    first = np.arange(len(fits)), fits.argmax(1)
    shape = shapes[first]
    start = np.floor(numbers[:, 1:3] * (size - shape + 1))
    wanted = (numbers[:, 0] < probability) & fits[first]
    return (np.concatenate([start, shape], axis=1) * wanted[:, None]).astype(np.int32)


def erase(views: Float[Tensor, "b c h w"], erasing: Erasing) -> None:
    """Overwrites the rectangles of normalised views, in place."""
    overwrite(views, erasing, *copied([erasing_noise(erasing, views.shape[1])], views.device))


def erasing_noise(erasing: Erasing, channels: int = 3) -> Float32[np.ndarray, "n count"]:
    """For each view of which something is erased, as many numbers as for the largest rectangle."""
    rows = _erased(erasing)
    if not len(rows):
        return np.zeros((0, 0), np.float32)
    count = channels * int(erasing.boxes[rows, 2:].prod(1).max())
    return normals(erasing.seed, erasing.epochs[rows], erasing.ids[rows], erasing.stream, count)


def overwrite(views: Float[Tensor, "b c h w"], erasing: Erasing, noise: Float32[Tensor, "n count"]) -> None:
    """Puts noise that lies on the views' device into the rectangles."""
    rows = _erased(erasing)
    for row, (top, left, height, width), own in zip(rows.tolist(), erasing.boxes[rows].tolist(), noise, strict=True):
        patch = own[: (count := views.shape[1]) * height * width].view(count, height, width)
        views[row, :, top : top + height, left : left + width] = patch


def _erased(erasing: Erasing) -> Integer[np.ndarray, " n"]:
    return np.flatnonzero(erasing.boxes[:, 2:].all(1))
