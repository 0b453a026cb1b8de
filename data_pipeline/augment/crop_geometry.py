"""Which part of an image becomes a view: plain geometry, computed for a whole batch at once.

A view is made in four steps: cut a region out of the image, resize it, cut the view out of that, flip it or not.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Integer, Shaped

from eyespot.data_pipeline.augment.views import CenterView, ImageView, Interpolation, RandomView
from eyespot.data_pipeline.random_numbers import uniforms

NUM_TRIES = 10
NUM_DRAWS = 1 + 2 + 2 * NUM_TRIES
"""Per random view: flip, position (vertical, horizontal), then area and aspect ratio of each try."""
STRIP = 16
"""An image whose long side is more than so many times its short one is cut before it is resized."""

Pixels = Int32[np.ndarray, "b 2"]


@dataclass(kw_only=True, slots=True)
class Geometry:
    """How one view is cut from each image of a batch. Pairs are (vertical, horizontal), pixels."""

    start: Pixels
    """Upper left corner of the region, in the image."""
    shape: Pixels
    """Height and width of the region."""
    resized: Pixels
    """Height and width that the region is resized to."""
    offset: Pixels
    """Upper left corner of the view, in the resized region."""
    flip: Bool[np.ndarray, " b"]
    """Whether left and right are swapped."""
    interpolation: Interpolation = "bicubic"
    """How the region is resized."""
    flips_last: bool = False
    """Whether the view is altered in ways that do not look the same from both sides: rotated, moved, erased, noisy."""

    @property
    def flip_resized(self) -> Bool[np.ndarray, " b"]:
        """Who may be flipped before colours change, which costs nothing where DALI resizes: it mirrors on the way."""
        return self.flip & (not self.flips_last)

    @property
    def flip_finished(self) -> Bool[np.ndarray, " b"]:
        """Who has to be flipped after all else, as everybody is on the CPU."""
        return self.flip & self.flips_last

    def rows(self, rows: slice | Int64[np.ndarray, " n"]) -> "Geometry":
        """The geometry of some of the images."""
        return Geometry(
            start=self.start[rows],
            shape=self.shape[rows],
            resized=self.resized[rows],
            offset=self.offset[rows],
            flip=self.flip[rows],
            interpolation=self.interpolation,
            flips_last=self.flips_last,
        )


def view_geometry(
    view: ImageView,
    name: str,
    seed: int,
    epochs: Integer[np.ndarray, " b"],
    ids: Integer[np.ndarray, " b"],
    image_sizes: Pixels,
) -> Geometry:
    """Where to cut the view ``name`` of each sample: a pure function of (seed, epoch, sample id, name)."""
    if isinstance(view, CenterView):
        return center_crops(view, image_sizes)
    return random_crops(view, uniforms(seed, epochs, ids, name, NUM_DRAWS), image_sizes)


def random_crops(view: RandomView, numbers: Float32[np.ndarray, "b 23"], image_sizes: Pixels) -> Geometry:
    """Torchvision's RandomResizedCrop and RandomHorizontalFlip, driven by given numbers.

    Up to ten tries of an area and an aspect ratio; where none fits into the image, the largest centred crop whose
    aspect ratio is allowed.

    Args:
        view: what is asked for.
        numbers: uniform in [0, 1), one row of NUM_DRAWS per sample.
        image_sizes: heights and widths of the whole images, pixels.
    """
    height, width = image_sizes.T.astype(np.float64)
    tries = numbers[:, 3:].reshape(-1, NUM_TRIES, 2).astype(np.float64)
    low, high = view.scale
    areas = (height * width)[:, None] * (low + (high - low) * tries[:, :, 0])
    log_low, log_high = np.log(view.ratio)
    ratios = np.exp(log_low + (log_high - log_low) * tries[:, :, 1])
    widths, heights = np.round(np.sqrt(areas * ratios)), np.round(np.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= width[:, None]) & (heights > 0) & (heights <= height[:, None])
    first = np.arange(len(fits)), fits.argmax(1)
    found = fits[first]

    center = np.maximum(1, _largest_crops(view.ratio, height, width))
    shape = np.where(found[:, None], np.stack([heights[first], widths[first]], 1), center)
    room = image_sizes - shape
    start = np.where(found[:, None], np.floor(numbers[:, 1:3] * (room + 1)), room // 2)
    return Geometry(
        start=start.astype(np.int32),
        shape=shape.astype(np.int32),
        resized=np.full_like(image_sizes, view.size),
        offset=np.zeros_like(image_sizes),
        flip=numbers[:, 0] < view.flip,
        flips_last=max(view.rand_augment, view.erase, view.turn, view.noise, view.cutout) > 0,
    )


def _largest_crops(
    ratio: tuple[float, float], height: Shaped[np.ndarray, " b"], width: Shaped[np.ndarray, " b"]
) -> Shaped[np.ndarray, "b 2"]:
    """The largest (height, width) inside each image whose width / height is inside ``ratio``."""
    low, high = ratio
    return np.stack(
        [
            np.where(width / height < low, np.round(width / low), height),
            np.where(width / height > high, np.round(height * high), width),
        ],
        axis=1,
    )


def center_crops(view: CenterView, image_sizes: Pixels) -> Geometry:
    """Torchvision's Resize (of the short side) and CenterCrop, with their rounding; or what timm does in its place.

    Where the view is larger than the resized image ("border"), ``offset`` is negative.

    Of a strip, only the part that the view shows is resized: 1 x 40,000 pixels would become 256 x 10,240,000. The view
    is the same up to rounding where the short side divides what is resized, else shifted by at most half a pixel.
    """
    sides = image_sizes.astype(np.int64)
    short = sides.min(1, keepdims=True)
    if view.mode == "squash":
        resized = np.full_like(sides, view.resize)
    elif view.mode == "border":
        resized = np.maximum(np.round(sides / (sides.max(1, keepdims=True) / view.resize)).astype(np.int64), 1)
    else:
        resized = view.resize * sides // short
    offset = np.where(resized < view.size, -((view.size - resized) // 2), np.round((resized - view.size) / 2))
    start, shape, offset = np.zeros_like(sides), sides, offset.astype(np.int64)
    strip = sides > STRIP * short
    if view.mode == "center" and strip.any():
        unit = short // np.gcd(short, view.resize)  # so many pixels become a whole number of them
        margin = 2 * np.maximum(1, -(-short // view.resize)) + 1  # what a bicubic filter sees beyond a pixel
        first = np.maximum(0, offset * short // view.resize - margin) // unit * unit
        last = -(-((offset + view.size) * short // view.resize + 1 + margin) // unit) * unit
        start = np.where(strip, first, 0)
        shape = np.where(strip, np.minimum(last, sides), sides) - start
        resized = view.resize * shape // short
        offset = offset - view.resize * start // short
    return Geometry(
        start=start.astype(np.int32),
        shape=shape.astype(np.int32),
        resized=resized.astype(np.int32),
        offset=offset.astype(np.int32),
        flip=np.zeros(len(image_sizes), bool),
        interpolation=view.interpolation,
    )
