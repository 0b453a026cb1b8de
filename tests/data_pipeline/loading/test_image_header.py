"""The size in a file's header is that which Pillow and DALI see, whatever stands before it."""

import io

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.loading.image_header import image_size

PIXELS = np.random.default_rng(0).integers(0, 255, (37, 51, 3), np.uint8)


def encoded(format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format, **options)
    return file.getvalue()


FILES = {
    "a JPEG": encoded("JPEG"),
    "in several scans": encoded("JPEG", progressive=True),
    "a thumbnail of another size before it": encoded("JPEG", exif=b"Exif\0\0" + encoded("JPEG")[:2] + bytes(50)),
    "a colour profile in four segments": encoded("JPEG", icc_profile=bytes(200_000)),
    "long comments": encoded("JPEG", comment=b"\xff\xc0\x00\x11" * 10_000),
    "padding between segments": encoded("JPEG")[:2] + b"\xff\xff\xff" + encoded("JPEG")[2:],
    "a PNG": encoded("PNG"),
    "a palette": encoded("PNG", optimize=True),
    "a WebP": encoded("WEBP"),
    "a BMP": encoded("BMP"),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_size_is_pillows(kind):
    assert image_size(FILES[kind]) == image_size(bytearray(FILES[kind])) == (37, 51)


def test_it_is_so_for_photographs(photo_folder):
    files = sorted(path for path in photo_folder.rglob("*") if path.is_file())
    assert len(files) > 200
    for path in files:
        assert image_size(path.read_bytes()) == Image.open(path).size[::-1], path


@pytest.mark.parametrize(
    "file",
    [
        *(b"", b"\xff\xd8", b"text" * 50, FILES["a JPEG"][:30], b"\xff\xd8" + b"\xff" * 5000, b"\xff\xd8" + bytes(99)),
        *(FILES["a PNG"][:2000], FILES["a PNG"][:2000] + bytes(len(FILES["a PNG"]) - 2000)),
    ],
    ids=["nothing", "two bytes", "text", "a cut JPEG", "padding alone", "zeros", "a cut PNG", "a PNG of zeros"],
)
def test_what_is_no_image_has_no_size(file):
    assert image_size(file) is None
