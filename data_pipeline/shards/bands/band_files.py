"""Reads files of any number of bands: TIFF (tifffile), arrays of NumPy, and whatever Pillow reads without loss.

A TIFF's bands are its pages, and the samples of each page, in the order of the file: strips or tiles, either byte
order, bands together or apart, LZW, Deflate, PackBits, LZMA, Zstandard. Pages that are smaller copies of another
(overviews) or masks are left out. Nothing of what a file tells about other files is followed, and no array is
unpickled. Whatever would have to be rounded (floats, signed values, lossy compression) is refused in a line.
"""

import importlib.util
import io
import logging
import warnings
from typing import Any

import numpy as np
from jaxtyping import Integer

from eyespot.data_pipeline.shards.bands.stored_bands import MAGIC, MOST_BANDS, Bands
from eyespot.data_pipeline.shards.image_check import MAX_SIDE, TOO_LARGE, BadImage, opened

HAS_TIFFFILE = all(importlib.util.find_spec(name) is not None for name in ("tifffile", "imagecodecs"))
SUFFIXES = frozenset({".npy", ".tif", ".tiff"})
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LOSSLESS = {1, 5, 8, 32946, 32773, 34925, 50000}
"""TIFF's numbers of none, LZW, Deflate (two), PackBits, LZMA and Zstandard."""
_PREDICTORS = {1, 2}
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""
_UNSIGNED, _PALETTE = 1, 3
_FLOAT = "scale the values to 16 bits first (uint16)"
Pixels = Integer[np.ndarray, "h w c"]


def read_bands(data: bytes, bands: Bands, max_pixels: int) -> Pixels:
    """The pixels of a file, (height, width, bands), exactly as they are.

    Args:
        data: the file's bytes.
        bands: what it must have.
        max_pixels: height times width of the largest image that is decoded.

    Raises:
        BadImage: the bytes are no image, a broken or huge one, or one of other bands.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if data.startswith(MAGIC):
                return _array(data, bands, max_pixels)
            if data.startswith(_TIFF):
                return _tiff(data, bands, max_pixels)
            return _picture(data, bands, max_pixels)
    except BadImage:
        raise
    except Exception as error:  # hostile bytes make libraries raise almost anything
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadImage(f"undecodable: {text}") from error


def kind_of(data: bytes) -> str:
    """What sort of file it is, for the count of those that were rewritten."""
    return "array" if data.startswith(MAGIC) else "tiff" if data.startswith(_TIFF) else "picture"


def check_size(height: int, width: int, bands: Bands, max_pixels: int) -> None:
    """Raises BadImage where an image is too large to decode; many bands count as the images that they would fill."""
    if (side := max(height, width)) > MAX_SIDE:
        raise BadImage(f"a side of {side} pixels; at most {MAX_SIDE}")
    if height * width * max(3, bands.count) > 3 * max_pixels:
        raise BadImage(TOO_LARGE)


def check_bands(count: int, dtype: np.dtype, bands: Bands) -> None:
    """Raises BadImage where an image has others."""
    if dtype.kind == "f":
        raise BadImage(f"values of {dtype.name}, not of {bands.bits} bits: {_FLOAT}")
    if dtype.kind != "u" or dtype.itemsize * 8 != bands.bits:
        raise BadImage(f"values of {dtype.name}, where --bits {bands.bits} asks for uint{bands.bits}")
    if count != bands.count:
        raise BadImage(f"{count} bands, where --bands {bands.count} asks for {bands.count}")


def _array(data: bytes, bands: Bands, max_pixels: int) -> Pixels:
    """Height x width x bands, or bands x height x width; where both could be, the first."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_columns, dtype = read(file)
    except Exception as error:  # what numpy says of it has addresses of memory in it, and bad advice
        raise BadImage("an array whose header cannot be read") from error
    if dtype.hasobject:
        raise BadImage("an array of Python objects, which is never unpickled; save numbers")
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or min(shape) < 1:
        raise BadImage(f"an array of shape {shape}; needed are height x width x bands, or bands x height x width")
    last = shape[2] == bands.count or shape[0] != bands.count
    height, width = shape[:2] if last else shape[1:]
    check_bands(shape[2 if last else 0], dtype, bands)
    check_size(height, width, bands, max_pixels)
    if len(data) - file.tell() != height * width * bands.count * dtype.itemsize:
        raise BadImage("truncated array: its bytes are not those of its shape")
    pixels = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if by_columns else "C")
    return _native(pixels if last else np.moveaxis(pixels, 0, 2))


def _tiff(data: bytes, bands: Bands, max_pixels: int) -> Pixels:
    if not HAS_TIFFFILE:
        raise BadImage('a TIFF: needs tifffile and imagecodecs: pip install "eyespot[tiff]"')
    import tifffile  # pyright: ignore[reportMissingImports]  # an extra

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it tells of every odd tag; what matters is checked here
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) > 4 * MOST_BANDS:
            raise BadImage(f"{len(file.pages)} pages, where --bands {bands.count} asks for {bands.count}")
        pages: list[Any] = [page for page in map(file.pages.get, range(len(file.pages))) if _is_band(page)]
        if not pages:
            raise BadImage("a TIFF without an image")
        sizes = {(page.imagelength, page.imagewidth) for page in pages}
        if len(sizes) > 1:
            raise BadImage(f"{len(pages)} pages of {len(sizes)} sizes; bring its bands to one grid first")
        for page in pages:
            _check_page(page, data)
        (height, width), count = sizes.pop(), sum(page.samplesperpixel for page in pages)
        check_bands(count, np.result_type(*(page.dtype for page in pages)), bands)
        check_size(height, width, bands, max_pixels)
        planes = [_planes(page.asarray(maxworkers=1), page) for page in pages]
    pixels = np.concatenate(planes, axis=2)
    if pixels.shape != (height, width, count):
        raise BadImage(f"a TIFF whose values come as {pixels.shape}, not as {height} x {width} x {count}")
    return _native(pixels)


def _is_band(page: Any) -> bool:
    return not page.subfiletype & (_REDUCED | _MASK)


def _check_page(page: Any, data: bytes) -> None:
    """Before anything of a page is decoded."""
    said = int(page.compression)
    if said not in _LOSSLESS or page.predictor not in _PREDICTORS or page.fillorder != 1:
        how = f"compression {said}, predictor {int(page.predictor)}"
        raise BadImage(f"a TIFF with {how}: none, LZW, Deflate, PackBits, LZMA and Zstandard are read")
    if page.photometric == _PALETTE:
        raise BadImage("a TIFF with a palette, whose values are no measurements")
    if page.dtype is None or page.imagedepth != 1:
        raise BadImage(f"a TIFF of {page.bitspersample} bits and depth {page.imagedepth}")
    if page.bitspersample != page.dtype.itemsize * 8:
        raise BadImage(f"a TIFF of {page.bitspersample} bits; write it with 8 or 16")
    if page.sampleformat != _UNSIGNED and page.dtype.kind == "u":
        raise BadImage(f"a TIFF of sample format {page.sampleformat}")
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(places) != np.prod(page.chunked, dtype=object) or not all(size for _, size in places):
        raise BadImage("a TIFF whose strips or tiles are not all there")
    if any(offset + size > len(data) for offset, size in places):
        raise BadImage("truncated TIFF: its strips or tiles lie beyond its end")


def _planes(pixels: np.ndarray, page: Any) -> np.ndarray:
    """A page's samples in the last place."""
    if pixels.ndim == 2:
        return pixels[:, :, None]
    return np.moveaxis(pixels, 0, 2) if page.axes == "SYX" else pixels


def _picture(data: bytes, bands: Bands, max_pixels: int) -> Pixels:
    """By Pillow, where it keeps every bit: 8 bits of gray, RGB or RGBA, and 16 of gray."""
    image = opened(data)
    check_size(image.height, image.width, bands, max_pixels)
    is_png = image.format == "PNG"
    if is_png and data[24] == 16 and image.mode not in ("I;16", "I"):
        return _deep_png(data, bands)
    if image.mode not in ("L", "RGB", "RGBA") and not image.mode.startswith("I;16"):
        raise BadImage(f"{image.format} of mode {image.mode}; --bands takes 8-bit gray, RGB and RGBA, and 16-bit gray")
    if image.format in ("JPEG", "MPO", "WEBP"):
        raise BadImage(f"{image.format}: its bits are lost already; pack such images without --bands")
    if is_png:
        opened(data).verify()
    if getattr(image, "n_frames", 1) > 1:
        raise BadImage("an animation")
    image.load()
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    check_bands(pixels.shape[2], pixels.dtype, bands)
    return _native(pixels)


def _deep_png(data: bytes, bands: Bands) -> Pixels:
    """48 and 64 bits a pixel, of which Pillow would keep the upper halves."""
    if not HAS_TIFFFILE:
        raise BadImage('a PNG of 16 bits and several channels: needs imagecodecs: pip install "eyespot[tiff]"')
    import imagecodecs  # pyright: ignore[reportMissingImports]  # an extra

    opened(data).verify()
    pixels: np.ndarray = np.asarray(imagecodecs.png_decode(data))
    check_bands(pixels.shape[2], pixels.dtype, bands)
    return _native(pixels)


def _native(pixels: np.ndarray) -> Pixels:
    """In this machine's byte order, row by row."""
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
