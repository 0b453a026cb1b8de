"""Examines one file of any number of bands: is it whole, what is stored of it, and what are its sums."""

import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Integer
from PIL import Image

from eyespot.data_pipeline.shards.bands.band_files import check_size, kind_of, read_bands
from eyespot.data_pipeline.shards.bands.stored_bands import EXTENSION, Bands, decode_bands, encode_bands
from eyespot.data_pipeline.shards.image_check import (
    MAX_PIXELS,
    READABLE_PIXELS,
    REWRITE,
    BadImage,
    Examined,
    shrunk_size,
)
from eyespot.data_pipeline.shards.pixels.pixel_sums import is_sampled

_ROWS = 2**20
"""Pixels whose squares are summed at once: below 2^53 in all."""


def examine_bands(
    data: bytes,
    bands: Bands,
    resize: int | None = None,
    *,
    in_place: bool = False,
    max_pixels: int = MAX_PIXELS,
    one_in: int = 1,
) -> Examined:
    """Decodes a file completely; what is stored of it is an array with the very same values.

    Args:
        data: the file's bytes.
        bands: what it must have.
        resize: shrink the image so that its short side has this many pixels (bicubic, each band by itself).
        in_place: nothing can be rewritten; what is no such array as shards hold is bad.
        max_pixels: height times width of the largest image that is decoded.
        one_in: of how many images one has its values summed (pixels/pixel_sums.py).

    Raises:
        BadImage: the bytes are no image, a broken one, one of absurd size or of other bands.
    """
    pixels = read_bands(data, bands, max_pixels)
    kept = _is_stored(data, bands)
    if in_place and not kept:
        raise BadImage(f"{REWRITE} as an array of height x width x bands: eyespot shards pack does")
    height, width, _ = pixels.shape
    size = shrunk_size((width, height), resize)
    kind = None if kept else kind_of(data)
    if size != (width, height):
        pixels, kind = _shrunk(pixels, size, bands), "resized"
    check_size(pixels.shape[0], pixels.shape[1], bands, READABLE_PIXELS)
    stored = data if kind is None else encode_bands(pixels)
    crc32 = zlib.crc32(stored)
    sums, squares = band_sums(pixels) if is_sampled(crc32, one_in) else ((0,) * bands.count,) * 2
    return Examined(
        data=stored,
        extension=EXTENSION,
        kind=kind,
        height=pixels.shape[0],
        width=pixels.shape[1],
        crc32=crc32,
        sums=sums,
        squares=squares,
    )


def band_sums(pixels: Integer[np.ndarray, "h w c"]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Exact sums of the values of each band, and of their squares."""
    sums, squares = [0] * pixels.shape[2], [0] * pixels.shape[2]
    for rows in _portions(pixels.reshape(-1, pixels.shape[2])):
        wide = rows.astype(np.uint64)
        sums = [a + b for a, b in zip(sums, wide.sum(0).tolist(), strict=True)]
        squares = [a + b for a, b in zip(squares, (wide * wide).sum(0).tolist(), strict=True)]
    return tuple(sums), tuple(squares)


def _portions(rows: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _ROWS // rows.shape[1])
    return (rows[begin : begin + step] for begin in range(0, len(rows), step))


def _is_stored(data: bytes, bands: Bands) -> bool:
    """Whether it is such a member already."""
    try:
        decode_bands(data, bands)
    except ValueError:
        return False
    return True


def _shrunk(pixels: np.ndarray, size: tuple[int, int], bands: Bands) -> np.ndarray:
    planes = [
        np.asarray(Image.fromarray(pixels[:, :, band].astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
        for band in range(pixels.shape[2])
    ]
    return np.stack(planes, axis=2).round().clip(0, bands.peak).astype(pixels.dtype)
