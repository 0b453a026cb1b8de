"""Depth maps keep all 16 bits; what is none is refused with a reason."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from eyespot.data_pipeline.shards.members.captions import BadMember
from eyespot.data_pipeline.shards.members.depth_maps import depth_png, depth_values, open_depth


def distances(height: int, width: int) -> np.ndarray:
    """Random numbers of 16 bits, the smallest and largest among them."""
    values = torch.randint(2**16, (height, width)).numpy().astype(np.uint16)
    values[0, :2] = 0, 2**16 - 1
    return values


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_every_value_comes_back():
    values = distances(7, 5)
    assert np.array_equal(depth_values(open_depth(depth_png(values))), values)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no whole PNG"),
        (depth_png(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)[:120], "no whole PNG"),
        (encoded(Image.new("L", (5, 7), 3)), "a PNG of 8 bits L; distances need 16-bit gray"),
        (encoded(Image.new("RGB", (5, 7))), "a PNG of 8 bits RGB"),
        (encoded(Image.new("L", (5, 7)), "JPEG"), "no whole PNG"),
    ],
)
def test_what_is_no_depth_is_refused(data: bytes, reason: str):
    with pytest.raises(BadMember, match=reason):
        open_depth(data)
