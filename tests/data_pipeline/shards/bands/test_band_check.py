"""What is stored of a file of bands, and its sums."""

import numpy as np
import pytest
from banded import scene, written

from eyespot.data_pipeline.shards.bands.band_check import band_sums, examine_bands
from eyespot.data_pipeline.shards.bands.stored_bands import Bands, decode_bands, encode_bands
from eyespot.data_pipeline.shards.image_check import BadImage

SIX = Bands(count=6)


def test_values_and_sums_are_the_files():
    pixels = scene(0)
    found = examine_bands(written(pixels)["gdal.tif"], SIX)
    assert np.array_equal(decode_bands(found.data, SIX), pixels)
    assert (found.height, found.width, found.extension, found.kind) == (40, 44, "npy", "tiff")
    wide = pixels.astype(object)
    assert found.sums == tuple(wide.sum((0, 1)))
    assert found.squares == tuple((wide * wide).sum((0, 1)))


def test_the_largest_values_are_summed_exactly():
    sums, squares = band_sums(np.full((1200, 1000, 1), 65_535, np.uint16))
    assert (sums, squares) == ((1_200_000 * 65_535,), (1_200_000 * 65_535**2,))


def test_a_member_stays_as_it_is():
    data = encode_bands(scene(0))
    assert examine_bands(data, SIX, in_place=True).data == data
    with pytest.raises(BadImage, match="would have to be rewritten"):
        examine_bands(written(scene(0))["gdal.tif"], SIX, in_place=True)


def test_shrinking_keeps_each_band_by_itself():
    pixels = scene(0)
    found = examine_bands(encode_bands(pixels), SIX, resize=20)
    assert (found.height, found.width, found.kind) == (20, 22, "resized")
    small = decode_bands(found.data, SIX).astype(float)
    means = pixels.reshape(20, 2, 22, 2, 6).mean((1, 3))
    assert abs(small - means).mean() < 0.2 * pixels.std()
    assert np.allclose(small.mean((0, 1)), pixels.mean((0, 1)), rtol=0.01)
