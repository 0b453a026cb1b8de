"""Examines one image file: is it whole, must it be rewritten, how large is it, what are its pixel sums.

An image is kept as it is, byte for byte, where DALI and PIL decode it to the same RGB pixels: an 8-bit RGB or gray
JPEG (baseline or progressive) or PNG. Everything else that decodes is rewritten as RGB, as PNG if the source was
lossless and as JPEG of quality 95 otherwise:

- CMYK, palette, 1-bit, 16-bit (scaled, not clipped), and formats other than JPEG and PNG; where 16 bits hold values of
  12 or so, the picture comes out nearly black, and is counted as such;
- transparency: laid on white, as a page shows it;
- animations: the first frame;
- an EXIF orientation, wherever Pillow finds one (also in PNG, WebP and XMP): turned upright, as every viewer shows it.
  DALI decodes without looking at the tag;
- a header that DALI does not read (image_workers.py asks it).

HEIC is read where pillow-heif is installed (``pip install "eyespot[heic]"``).

What does not decode completely raises BadImage with the reason.
"""

import importlib.util
import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from eyespot.data_pipeline.shards.pixels.jpeg_scan import COMMON_FRAMES, walk_jpeg
from eyespot.data_pipeline.shards.pixels.pixel_sums import NO_SUMS, is_sampled, pixel_sums

# Not every format that PIL knows: some start other programs on the bytes (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
_HEIF = " heic heif hif" if HAS_HEIF else ""
_NAMES = "jpg jpeg jpe jfif png apng gif webp bmp dib tif tiff ppm pgm pbm pnm jp2 j2k avif" + _HEIF
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
JPEG_QUALITY = 95
MAX_SIDE = 65_535  # pixels; the index stores sides in 16 bits
MAX_PIXELS = 178_956_970
"""Of an image that is decoded, where nobody says otherwise; Pillow's own limit against decompression bombs."""
READABLE_PIXELS = 2**28
"""Of a stored image: the loader takes no larger one (reader.py)."""
REWRITE = "would have to be rewritten"
MISREAD = "DALI cannot read its header as other programs do"
TOO_LARGE = "more pixels than the limit against decompression bombs (--max-pixels)"
_LOSSLESS = {"PNG", "GIF", "BMP", "TIFF", "PPM"}
_ORIENTATION = 0x0112
_T = Image.Transpose
_TURNS = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE}
_TURNS |= {6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}


class BadImage(Exception):
    """The bytes are no complete image. The message is the reason, one line."""


@dataclass(kw_only=True, slots=True)
class StoredMask:
    """One segmentation mask as it is to be stored."""

    data: bytes
    """8-bit gray PNG."""
    crc32: int
    """Of data."""
    counts: list[int]
    """Pixels of each value 0..255."""


@dataclass(kw_only=True, slots=True)
class StoredMember:
    """What lies beside an image, as it is to be stored (members/member_tables.py)."""

    data: bytes = b""
    crc32: int = 0
    """Of data."""
    problem: str = ""
    """Why it cannot be used; empty = it can."""


@dataclass(kw_only=True, slots=True)
class Examined:
    """One image as it is to be stored."""

    data: bytes
    """Empty where it was examined in place, or is a frame that stays as it lies in the source (frame_check.py)."""
    extension: str
    """jpg or png; npy of bands."""
    kind: str | None
    """Why the image was rewritten; None = these are the source's own bytes."""
    height: int
    """Pixels."""
    width: int
    crc32: int
    """Of data."""
    sums: tuple[int, ...]
    """Of all pixel values 0..255 per channel, RGB; of bands, each band's own values. Zeros where it is not in the
    sample."""
    squares: tuple[int, ...]
    """Of all squared pixel values, alike."""
    orientation: int = 1
    """EXIF's, 1..8, of the source: how the image was turned, or would have to be where nothing is rewritten."""
    mask: StoredMask | None = None
    """What is stored beside the image (pack_masks.py)."""
    luma: np.ndarray | None = None
    """(height, width) uint8, where it was asked for."""
    clip: "ExaminedClip | None" = None
    """Where this is the first frame of many."""
    members: dict[str, StoredMember] = field(default_factory=dict)
    """What lies beside it, by extension (pack_members.py)."""


@dataclass(kw_only=True, slots=True)
class ExaminedClip:
    """The frames of one sample as they are to be stored (frames.py)."""

    streams: tuple[str, ...]
    """Sorted by name; each has as many frames."""
    frames: list[Examined]
    """Stream after stream, each in the order of time."""
    motion: list[float]
    """Of each frame, to the next one of its stream."""
    rate: float
    """Frames per second; 0 = unknown."""
    sound: tuple[str, bytes] | None = None
    """Suffix and bytes of the file."""


def examine(
    data: bytes,
    resize: int | None = None,
    *,
    in_place: bool = False,
    rewrite: str | None = None,
    max_pixels: int = MAX_PIXELS,
    luma: bool = False,
    one_in: int = 1,
) -> Examined:
    """Decodes an image completely and rewrites it where that is needed (see the top of this file).

    Args:
        data: the file's bytes.
        resize: shrink the image so that its short side has this many pixels; a smaller image is left alone.
        in_place: nothing can be rewritten; what would have to be is bad. An EXIF orientation is ignored, as the
            loader ignores it.
        rewrite: a reason to rewrite even a file that could be kept.
        max_pixels: height times width of the largest image that is decoded.
        luma: whether to return that too, of the image as it is to be stored.
        one_in: of how many images one has its pixels summed (pixels/pixel_sums.py). A JPEG that is kept and not summed
            has its codes read to the end all the same, but is decoded at an eighth of its size.

    Raises:
        BadImage: the bytes are no image, a broken one, or one of absurd size.
    """
    try:
        with warnings.catch_warnings(), _limit(max_pixels):
            warnings.simplefilter("ignore")  # PIL warns of every odd tag; what matters raises
            return _examine(data, resize, in_place, rewrite, max_pixels, luma, one_in)
    except BadImage:
        raise
    except UnidentifiedImageError:
        hint = "; a TIFF of several bands is packed with --bands" if data.startswith((b"II", b"MM")) else ""
        raise BadImage(f"not an image of a known format{hint}") from None
    except Image.DecompressionBombError:
        raise BadImage(TOO_LARGE) from None
    except Exception as error:  # hostile bytes make PIL raise almost anything
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(text if "truncated" in text else f"undecodable: {text}") from error


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The RGB pixels that packing would store: upright, 16 bits scaled, transparency on white.

    Raises:
        BadImage: as ``examine``.
    """
    return opened(examine(data, max_pixels=max_pixels).data).convert("RGB")


def encode_png(pixels: bytes, shape: tuple[int, ...]) -> bytes:
    """PNG of raw uint8 pixels of shape (H, W) or (H, W, 3)."""
    image = Image.frombytes("L" if len(shape) == 2 else "RGB", (shape[1], shape[0]), pixels)
    return _encode(image, "png")


def encode_jpeg(image: Image.Image, resize: int | None = None) -> bytes:
    """JPEG as this project writes it, of an RGB or gray image; shrunk so that its short side has ``resize`` pixels."""
    return _encode(_shrink(image, resize), "jpg")


def _examine(
    data: bytes, resize: int | None, in_place: bool, rewrite: str | None, max_pixels: int, luma: bool, one_in: int
) -> Examined:
    if not data:
        raise BadImage("empty file")
    image = opened(data)
    if (side := max(image.size)) > MAX_SIDE:
        raise BadImage(f"a side of {side} pixels; at most {MAX_SIDE}")
    if image.width * image.height > max_pixels:
        raise BadImage(TOO_LARGE)
    turned = exif_orientation(image) if image.format == "TIFF" else 1  # which Pillow turns while it loads
    size, crc32, is_seen = image.size, zlib.crc32(data), True  # whether anybody looks at the pixels
    is_summed = is_sampled(crc32, one_in)
    if image.format in ("JPEG", "MPO"):
        stays = rewrite is None and shrunk_size(size, resize) == size and (in_place or exif_orientation(image) == 1)
        is_seen = is_summed or luma or not stays
        image, kind = _load_jpeg(image, data, is_seen)
    else:
        kind = _kind(image, data)
        if image.format == "PNG":
            opened(data).verify()  # the checksum of every chunk, which load() does not look at
        image.load()
    kind = _few_bits(image) if kind == "16-bit" else kind
    source_format = image.format
    if in_place and kind is not None:
        raise BadImage(f"{kind}: {REWRITE} as an RGB JPEG or PNG first")
    if (orientation := max(turned, exif_orientation(image))) != turned and not in_place:
        image, kind = turn(image, orientation), kind or "rotated"
    size = image.size if is_seen else size
    shrunk = shrunk_size(size, resize)
    if shrunk[0] * shrunk[1] > READABLE_PIXELS:
        raise BadImage(f"{shrunk[0]} x {shrunk[1]} pixels, more than the loader takes; shrink it with --resize")
    if shrunk != size:
        kind = kind or "resized"
    kind = kind or rewrite
    if kind is None:
        sums, squares = pixel_sums(image) if is_summed else NO_SUMS
        return Examined(
            data=data,
            extension="png" if source_format == "PNG" else "jpg",
            kind=None,
            height=size[1],
            width=size[0],
            crc32=crc32,
            sums=sums,
            squares=squares,
            orientation=orientation,
            luma=np.asarray(image.convert("L")) if luma else None,
        )
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        image = _to_rgb(image)
    lossless = source_format in _LOSSLESS or (source_format == "WEBP" and b"VP8L" in data[:256])
    stored = _encode(_shrink(image, resize), "png" if lossless else "jpg")
    measured = _examine(stored, None, True, None, READABLE_PIXELS, luma, one_in)  # what readers will decode
    return replace(measured, kind=kind, orientation=orientation)


@contextmanager
def _limit(max_pixels: int) -> Iterator[None]:
    """Pillow's own limit, which also holds for what it finds inside of a file; it raises beyond twice the number."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    if not HAS_HEIF:
        return FORMATS
    import pillow_heif  # pyright: ignore[reportMissingImports]  # an extra

    pillow_heif.register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


def opened(data: bytes | bytearray) -> Any:
    """An image file of a format that this project reads, not decoded yet. No file is opened another way."""
    return Image.open(io.BytesIO(data), formats=_formats())


def _load_jpeg(image: Any, data: bytes, is_seen: bool) -> tuple[Any, str | None]:
    """Decodes a JPEG, ``opened`` before, and makes sure that its scan data reach to the last row.

    libjpeg fills a scan that ends early without an error. So the end-of-image marker is replaced by a few bytes that
    are no Huffman code: a complete scan never asks for more, a short one eats them and runs dry, which PIL reports.
    A JPEG of several scans must keep its end marker; there two fillings of the gap must give the same picture.

    One scan of Huffman codes is read to its end whatever is made of them, so where nobody looks at the pixels they are
    made at an eighth of the size. Of several scans, and of what may be rewritten, all pixels are made.
    """
    end, frame = walk_jpeg(data)
    is_usual = image.mode in ("RGB", "L") and frame in COMMON_FRAMES
    if end is None:
        raise BadImage("truncated JPEG: no end-of-image marker")
    try:
        whole = io.BytesIO(data[:end] + b"\xff\x00" * 8)
        if image.format == "JPEG":
            image.fp = whole  # its header is the same, and need not be read again
            if is_usual and not is_seen:
                image.draft(None, (1, 1))
        else:  # Pillow seeks in files of several pictures
            image = opened(whole.getvalue())
        image.load()
    except OSError:
        image = opened(data)
        image.load()
        padded = opened(data[:end] + bytes(range(1, 200)) + data[end:])
        if padded.tobytes() != image.tobytes():
            raise BadImage("truncated JPEG: its data end before its last row") from None
    return image, "cmyk" if image.mode == "CMYK" else None if is_usual else "unusual jpeg"


def _kind(image: Any, data: bytes) -> str | None:
    """Why an image that is no JPEG must be rewritten; None = keep it."""
    is_png = image.format == "PNG"
    if getattr(image, "n_frames", 1) > 1:
        return "animated"
    if image.has_transparency_data:
        return "alpha"
    if "16" in image.mode or (is_png and data[24] == 16) or (image.format == "PPM" and image.mode == "I"):
        return "16-bit"
    if not is_png:
        return image.format.lower()
    if image.mode == "P":
        return "palette"
    return None if data[24] == 8 and image.mode in ("RGB", "L") else f"{data[24]}-bit"


def _few_bits(image: Any) -> str:
    """Names 16-bit images of which the upper bits are empty, so that white is nowhere near 65535."""
    pixels = np.asarray(image)
    bits = int(pixels.max()).bit_length() + 8 * (pixels.dtype == np.uint8)  # of 48 bits Pillow keeps upper bytes
    used = next((few for few in (8, 10, 12, 14) if bits <= few), None)
    return "16-bit" if used is None else f"16-bit with values of {used} bits (nearly black)"


def exif_orientation(image: Any) -> int:
    """EXIF's, 1..8, wherever Pillow finds it: in EXIF, in a PNG's text, in XMP."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata is no broken image
        return 1
    return int(orientation) if orientation in _TURNS else 1


def turn(image: Any, orientation: int) -> Any:
    """The image as a viewer shows it that has this EXIF orientation, 1..8."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Any) -> Any:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        gray = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((gray + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage("32-bit pixels have no defined white; convert the file to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _shrink(image: Any, resize: int | None) -> Any:
    size = shrunk_size(image.size, resize)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def shrunk_size(size: tuple[int, int], resize: int | None) -> tuple[int, int]:
    """Width and height after shrinking the short side to ``resize`` pixels; what is smaller stays as it is."""
    short = min(size)
    if resize is None or short <= resize:
        return size
    width, height = (max(resize, round(side * resize / short)) for side in size)
    return width, height


def _encode(image: Any, extension: str) -> bytes:
    image.info = {}  # else PIL writes profiles, comments and transparency into the new file
    stream = io.BytesIO()
    kind, options = ("PNG", {}) if extension == "png" else ("JPEG", {"quality": JPEG_QUALITY})
    image.save(stream, kind, **options)
    return stream.getvalue()
