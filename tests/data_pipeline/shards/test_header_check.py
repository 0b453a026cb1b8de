"""What DALI reads off the headers of image files."""

import io

import pytest
from PIL import Image
from shapes import levels

from eyespot.data_pipeline.shards.header_check import BATCH_SIZE, header_sizes


def image(height: int, width: int, form: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels(height, width, 3)).save(stream, form, **options)
    return stream.getvalue()


def test_sizes_of_whole_images():
    sizes = [(1 + number, 80 - number) for number in range(BATCH_SIZE + 9)]
    forms = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})]
    files = [image(*size, form, **options) for size, (form, options) in zip(sizes, forms * 20, strict=False)]
    assert header_sizes(files) == sizes
    turned = Image.Exif()
    turned[0x0112] = 6
    assert header_sizes([image(20, 30, "JPEG", exif=turned)]) == [(20, 30)], "the decoder does not turn either"


@pytest.mark.parametrize("bad", [b"", b"x" * 500, image(9, 9, "PNG")[:20], image(9, 9, "JPEG")[:30]])
def test_the_unreadable_are_told_from_the_others(bad: bytes):
    files = [image(10, 10 + number, "PNG") for number in range(7)]
    assert header_sizes([*files[:3], bad, *files[3:], bad]) == [
        *((10, 10 + number) for number in range(3)),
        None,
        *((10, 10 + number) for number in range(3, 7)),
        None,
    ]
    assert header_sizes(files[:1]) == [(10, 10)]
