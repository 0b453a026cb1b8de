"""What packing measures of an image is what slow and obvious ways measure."""

import hashlib
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.shards import image_check
from eyespot.data_pipeline.shards.image_check import examine
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.sources import CALTECH10


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
        assert image_check._walk_jpeg(data) == walked_slowly(data), data[:80]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sums_are_exact(mode: str):
    pixels = np.random.default_rng(0).integers(0, 256, (301, 403, 3)[: 3 if mode == "RGB" else 2], np.uint8)
    seen = examine(encode(Image.fromarray(pixels), "PNG"))
    flat = pixels.reshape(-1, 3 if mode == "RGB" else 1).astype(np.int64)
    times = 1 if mode == "RGB" else 3
    assert seen.sums == tuple(flat.sum(0).tolist() * times) and seen.squares == tuple((flat**2).sum(0).tolist() * times)
    assert all(type(number) is int for number in (*seen.sums, *seen.squares))


def test_shards_are_to_the_byte_those_of_earlier_versions(tmp_path: Path):
    """Tars, indexes and manifests of 20 photographs that come with the package, which no library wrote here."""
    with tarfile.open(CALTECH10) as archive:
        for member in [one for one in archive if one.isfile() and one.name.endswith(".jpg")][::100]:
            path = tmp_path / "photos" / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
    pack(str(tmp_path / "photos"), tmp_path / "out", workers=1, max_samples=12)
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    assert digest.hexdigest() == "dfb6445416095b7c8e9a073030f5bcf9c983df5d4c4c4618ca3bb419bea80abb"
