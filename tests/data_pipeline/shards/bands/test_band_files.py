"""Files of many bands are read to the last bit, and hostile ones refused in a line."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from banded import npy, scene, tiff, written
from PIL import Image

from eyespot.data_pipeline.shards.bands.band_files import read_bands
from eyespot.data_pipeline.shards.bands.stored_bands import Bands
from eyespot.data_pipeline.shards.image_check import BadImage

SIX, LIMIT = Bands(count=6), 10**6


@pytest.mark.parametrize("name", list(written(scene(0))))
def test_every_way_to_write_an_image_gives_its_values(name: str):
    pixels = scene(0)
    assert np.array_equal(read_bands(written(pixels)[name], SIX, LIMIT), pixels)


@pytest.mark.parametrize("name", list(written(scene(0))))
def test_a_file_that_was_cut_is_none(name: str):
    data = written(scene(0))[name]
    for size in (20, len(data) // 2, len(data) - 300):
        with pytest.raises(BadImage):
            read_bands(data[:size], SIX, LIMIT)


def test_an_overview_is_no_band():
    stream, pixels = io.BytesIO(), scene(1)
    with tifffile.TiffWriter(stream) as file:
        file.write(pixels, photometric="minisblack", planarconfig="contig", subifds=0)
        file.write(pixels[::2, ::2], photometric="minisblack", planarconfig="contig", subfiletype=1)
    assert np.array_equal(read_bands(stream.getvalue(), SIX, LIMIT), pixels)


def test_pngs_of_16_bits_keep_them():
    gray = scene(2)[..., :1]
    stream = io.BytesIO()
    Image.fromarray(gray[..., 0]).save(stream, "PNG")
    assert np.array_equal(read_bands(stream.getvalue(), Bands(count=1), LIMIT), gray)
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = np.ascontiguousarray(scene(3)[..., :3])
    assert np.array_equal(read_bands(imagecodecs.png_encode(deep), Bands(count=3), LIMIT), deep)


class Armed:
    """Unpickling it would be noticed."""

    def __reduce__(self):
        return pytest.fail, ("an array was unpickled",)


def bomb() -> bytes:
    """A strip of 200 MB of zeros in an image that says it is small."""
    data = bytearray(tiff(np.zeros((40, 44, 6), np.uint16), planarconfig="contig", compression="deflate"))
    tags = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0].tags
    zeros = zlib.compress(bytes(200_000_000), 9)
    for code, value in ((273, len(data)), (279, len(zeros))):
        place = tags[code].offset
        data[place + 2 : place + 4] = (4).to_bytes(2, "little")
        data[place + 8 : place + 12] = value.to_bytes(4, "little")
    return bytes(data + zeros)


def huge(code: int) -> bytes:
    """An image that says it is far larger."""
    data = bytearray(tiff(scene(0), planarconfig="contig"))
    tag = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0].tags[code]
    data[tag.offset + 8 : tag.offset + 10] = (65_000).to_bytes(2, "little")
    return bytes(data)


def refusals() -> dict[str, tuple[bytes, str]]:
    pixels = scene(0)
    odd = npy(pixels)
    return {
        "empty": (b"", "empty file"),
        "pickle": (npy(np.array([[[Armed()]]], object)), "never unpickled"),
        "floats": (npy(np.full((9, 9, 6), np.nan, np.float32)), "values of float32"),
        "signed": (npy(pixels.astype(np.int16)), "values of int16"),
        "8 bits": (npy(pixels.astype(np.uint8)), "values of uint8, where --bits 16"),
        "five bands": (npy(pixels[..., :5]), "5 bands, where --bands 6"),
        "a vector": (npy(pixels.ravel()), "an array of shape"),
        "cut": (odd[:-3], "truncated array"),
        "longer": (odd + b"x", "truncated array"),
        "no header": (odd[:10] + b"[" * 100 + odd[110:], "^an array whose header cannot be read$"),
        "large": (npy(np.zeros((2000, 2000, 6), np.uint16)), "more pixels than the limit"),
        "wide": (huge(256), "more pixels than the limit|not all there"),
        "high": (huge(257), "more pixels than the limit|not all there"),
        "deep": (huge(277), "bands, where|not all there"),
        "bomb": (bomb(), "undecodable"),
        "float tiff": (tiff(np.full((9, 9), np.inf, np.float32)), "values of float32"),
        "sizes": (two_sizes(), "2 pages of 2 sizes"),
        "lossy": (tiff(pixels[..., 0].astype(np.uint8), compression="jpeg"), "compression 7"),
        "picture": (b"GIF89a" + bytes(100), "undecodable"),
    }


def two_sizes() -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for side in (20, 10):
            file.write(np.zeros((side, side, 3), np.uint16), photometric="minisblack", planarconfig="contig")
    return stream.getvalue()


@pytest.mark.parametrize("name", list(refusals()))
def test_a_hostile_file_is_refused_in_a_line(name: str, capfd: pytest.CaptureFixture[str]):
    data, why = refusals()[name]
    with pytest.raises(BadImage, match=why) as caught:
        read_bands(data, SIX, LIMIT)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_bytes_that_were_changed_are_read_or_refused(capfd: pytest.CaptureFixture[str]):
    draw = np.random.default_rng(0)
    for data in written(scene(0)).values():
        for _ in range(12):
            changed = bytearray(data)
            for place in draw.integers(0, min(len(data), 500), 4):
                changed[place] = draw.integers(256)
            try:
                assert read_bands(bytes(changed), SIX, LIMIT).shape[2] == 6
            except BadImage as error:
                assert "\n" not in str(error)
    assert capfd.readouterr().err == ""
