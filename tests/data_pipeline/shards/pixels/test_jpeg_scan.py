"""Markers are found where a slow and obvious walk finds them."""

import io
import re

import numpy as np
from PIL import Image

from eyespot.data_pipeline.shards.pixels.jpeg_scan import walk_jpeg


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def walked_slowly(data: bytes) -> tuple[int | None, int]:
    """The markers one by one, as they stand in the standard."""
    marker = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
    position, frame = 2, 0
    while match := marker.search(data, position):
        if match[1][0] == 0xD9:
            return match.start(), frame
        if match[1][0] in {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}:
            frame = match[1][0]
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return None, frame


def test_markers_are_found_as_one_by_one():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8))
    kinds = [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"comment": encode(image, "JPEG")}]
    files = [encode(image, "JPEG", **options) for options in kinds]
    files += [encode(image, "MPO", save_all=True, append_images=[image]), files[0][:-300], files[1] + b"notes \xff\xd9"]
    files += [b"", b"\xff", b"\xff\xd8\xff", b"\xff\xd8\xff\xff\xff\xd9", b"\xff\xd8x\xff\xff", b"\xff" * 50]
    alphabet = np.frombuffer(b"\xff\xff\xd9\xd0\xc0\xda\x00\x02\x04", np.uint8)
    files += [b"\xff\xd8" + rng.choice(alphabet, 60).tobytes() for _ in range(3000)]
    for data in files:
        assert walk_jpeg(data) == walked_slowly(data), data[:80]
