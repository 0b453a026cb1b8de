"""How large an image file says it is, told without decoding it: what the index says is not believed.

A region that lies outside the image crashes DALI, and with it the process; so does a PNG that ends before its last
chunk, of which DALI then knows no size. This costs a few microseconds per file.
"""

import struct

from eyespot.data_pipeline.shards.bands.stored_bands import MAGIC, bands_size

_PNG = struct.Struct(">8s4x4s2I")
_PNG_BEGINS = (b"\x89PNG\r\n\x1a\n", b"IHDR")
_CHUNK = struct.Struct(">I4s")
"""Of a PNG: length and kind; then come the data and four bytes of a checksum."""
_SEGMENT = struct.Struct(">2B H x 2H")
"""Of a JPEG: 0xFF, marker, length; then, where it is a frame, precision, height and width."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers of a frame; the three between them are tables, and one that nobody uses."""
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


def image_size(file: bytes | bytearray) -> tuple[int, int] | None:
    """The (height, width) in pixels that the file's header names; None where it is no image that DALI can read."""
    try:
        if file.startswith(MAGIC):
            return bands_size(file)
        found = _jpeg_size(file) if file.startswith(b"\xff\xd8") else _png_size(file)
    except struct.error:  # too short
        found = None
    if found:
        return found
    # Hardly ever needed; and whoever reads no shards needs no DALI.
    from eyespot.data_pipeline.shards.header_check import header_sizes

    return header_sizes([bytes(file)])[0]


def _png_size(file: bytes | bytearray) -> tuple[int, int] | None:
    """Of its first chunk; None where the chunks do not lead to the last one."""
    *begins, width, height = _PNG.unpack_from(file)
    if tuple(begins) != _PNG_BEGINS:
        return None
    place = len(_PNG_BEGINS[0])
    while True:
        length, kind = _CHUNK.unpack_from(file, place)
        if kind == b"IEND":
            return height, width
        if not kind.isalpha():
            return None
        place += 12 + length


def _jpeg_size(file: bytes | bytearray) -> tuple[int, int] | None:
    """Of the first frame; None where the segments do not follow each other as they should."""
    place = 2
    while True:
        begin, marker, length, height, width = _SEGMENT.unpack_from(file, place)
        if begin != 0xFF:
            return None
        if marker in _FRAMES:
            return height, width
        place += 1 if marker == 0xFF else 2 if marker in _BARE else 2 + length  # 0xFF: padding
