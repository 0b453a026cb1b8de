"""Depth maps: 16-bit gray PNGs beside images, of their height and width, whose values are kept as they are.

KEY.depth.png    distances in whatever unit the source has, such as millimetres; 0 = nothing was measured
"""

import io

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from eyespot.data_pipeline.shards.members.captions import BadMember

EXTENSION = "depth.png"
LARGEST_DEPTH = 2**29
"""Bytes: of as many pixels as an image may have."""
_SIXTEEN_BITS_GRAY = b"\x10\x00"
"""What a PNG's header says of that."""


def open_depth(data: bytes | bytearray) -> Image.Image:
    """A depth map, decoded completely.

    Raises:
        BadMember: it is no whole PNG of 16-bit gray.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        bits, kind = data[24], data[25]
        image.load()
    except Exception as error:  # hostile bytes make PIL raise almost anything
        raise BadMember("its depth is no whole PNG") from error
    if bytes((bits, kind)) != _SIXTEEN_BITS_GRAY:
        raise BadMember(f"its depth is a PNG of {bits} bits {image.mode}; distances need 16-bit gray")
    return image


def depth_values(image: Image.Image) -> UInt16[np.ndarray, "h w"]:
    """The values, exactly."""
    return np.asarray(image).astype(np.uint16)


def depth_png(values: UInt16[np.ndarray, "h w"]) -> bytes:
    """As PNG of 16-bit gray."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values, np.uint16)).save(stream, "PNG")
    return stream.getvalue()
