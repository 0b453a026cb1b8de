"""Images that are more than 8-bit RGB, as shards hold them: an array in NumPy's own format, which is nobody's code.

    KEY.npy                    (height, width, bands) of uint8 or little-endian uint16, row by row
    manifest.json, "bands"     how many there are, and their bits: the same for all images of a folder

Nothing is compressed and nothing lost: a region is read without decoding the rest. WebDataset reads these members as
arrays too.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from tokenize import TokenError
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Integer

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import plural

EXTENSION = "npy"
MAGIC = b"\x93NUMPY"
MOST_BANDS = 512
"""Of an image: hyperspectral instruments have some hundreds."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Bands:
    """What all images of a shard folder are that are not 8-bit RGB."""

    count: Annotated[int, Ge(1), Le(MOST_BANDS)]
    bits: Literal[8, 16] = 16
    """Of a value: 16 = 0..65535, whatever part of that the instrument uses."""

    def __post_init__(self) -> None:
        check_ranges(self, "bands.")

    @property
    def dtype(self) -> np.dtype:
        """Of a value."""
        return np.dtype("<u2" if self.bits == 16 else "u1")

    @property
    def peak(self) -> int:
        """The largest value: what is 1 where pixel values are said to lie in 0..1."""
        return 2**self.bits - 1

    def __str__(self) -> str:
        return f"{plural(self.count, 'band')} of {self.bits} bits"


def encode_bands(pixels: Integer[np.ndarray, "h w c"]) -> bytes:
    """A member's bytes."""
    dtype = pixels.dtype.newbyteorder("<")
    return atomic_files.npy_bytes(np.ascontiguousarray(pixels, dtype))


def decode_bands(file: bytes | bytearray, bands: Bands) -> Integer[np.ndarray, "h w c"]:
    """The pixels, in the memory of the file.

    Raises:
        ValueError: it is no such member, or has other bands; the message is the reason, one line.
    """
    shape, dtype, begin = _header(file)
    if (shape[2], dtype) != (bands.count, bands.dtype):
        raise ValueError(f"{shape[2]} bands of {dtype} where the shards have {bands}")
    return np.frombuffer(file, dtype, offset=begin).reshape(shape)


def bands_size(file: bytes | bytearray) -> tuple[int, int] | None:
    """The (height, width) in pixels of a member; None where it is none."""
    try:
        return _header(file)[0][:2]
    except ValueError:
        return None


def _header(file: bytes | bytearray) -> tuple[tuple[int, int, int], np.dtype, int]:
    """Shape, type, and where the pixels begin; the file ends with them."""
    shape, dtype, begin = _parsed(bytes(file[: 10 + int.from_bytes(file[8:10], "little")]))
    if len(shape) != 3 or dtype not in (np.dtype("u1"), np.dtype("<u2")) or min(shape) < 1:
        raise ValueError(
            f"an array of {dtype} and shape {_shown(shape)}, not of height x width x bands in uint8 or <u2"
        )
    if begin + shape[0] * shape[1] * shape[2] * dtype.itemsize != len(file):
        raise ValueError(f"{len(file)} bytes, which its shape {_shown(shape)} does not have")
    height, width, count = shape
    return (height, width, count), dtype, begin


@lru_cache(maxsize=256)
def _parsed(header: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Most images of a data set have the same header, and Python's parser takes longer than the crop."""
    file = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("an array of another version of the format than 1.0")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except (TokenError, SyntaxError, MemoryError, RecursionError, TypeError) as error:  # what NumPy lets through
        raise ValueError(f"its header is no header ({type(error).__name__})") from error
    if by_columns:
        raise ValueError("an array that is stored column by column")
    return shape, dtype, file.tell()


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape[:8]))
