"""Sums of the pixels of images, of which mean and deviation are made; of very many images, those of a sample.

To sum what an image shows costs nearly as much as to see that it is whole, and the mean of 200,000 images is known
from 6,000 of them. Which ones, their bytes decide: so it is the same sample in whatever order, by however many tasks
they are packed, and whoever has the index knows it.
"""

from typing import Any

import numpy as np

SAMPLED_FROM = 200_000
"""Images of a folder; with fewer, all are summed."""
ONE_IN = 32
"""Of a larger folder."""
NO_SUMS = ((0, 0, 0), (0, 0, 0))
_POWERS = np.arange(256.0)[:, None] ** [1, 2]
Sums = tuple[int, int, int]


def sampling(num_images: int) -> int:
    """Of how many images one is summed, in a folder of so many."""
    return ONE_IN if num_images >= SAMPLED_FROM else 1


def is_sampled(crc32: Any, one_in: int) -> Any:
    """Whether an image is in the sample, by the checksum of its bytes as they are stored; or of many, (n,) bool."""
    return crc32 % one_in == 0


def pixel_sums(image: Any) -> tuple[Sums, Sums]:
    """Of all pixel values 0..255 of an RGB or gray image, per channel, and of their squares."""
    counts = np.array(image.histogram(), np.float64).reshape(-1, 256)
    sums, squares = np.rint(counts @ _POWERS).astype(np.int64).T.tolist()  # exact: whole numbers below 2^53
    if len(sums) == 1:  # gray decodes to three equal channels
        sums, squares = sums * 3, squares * 3
    return tuple(sums), tuple(squares)
