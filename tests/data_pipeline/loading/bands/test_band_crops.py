"""Regions of images of bands, and what cannot be read."""

import numpy as np
import pytest
from banded import scene

from eyespot.data_pipeline.augment.crop_geometry import view_geometry
from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.bands.band_crops import BandGraphs
from eyespot.data_pipeline.shards.bands.stored_bands import Bands, encode_bands

VIEW = RandomView(size=16)


def test_regions_are_those_of_the_geometry_and_bad_files_are_named():
    graphs, images = BandGraphs(Bands(count=6)), [scene(number) for number in range(3)]
    ids = np.arange(3)
    place = view_geometry(VIEW, "view0", 0, np.zeros_like(ids), ids, np.array([[40, 44]] * 3, np.int32))
    files = [bytearray(encode_bands(image)) for image in images]
    inputs = iter([graphs.crop_inputs(files, [place])])
    pipeline = graphs.crop_pipeline(ViewSpec(views=(VIEW,)), lambda: next(inputs))
    (crops,) = pipeline.run()
    for image, crop, (top, left), (height, width) in zip(images, crops, place.start, place.shape, strict=True):
        assert np.array_equal(crop, image[top : top + height, left : left + width])
    with pytest.raises(StopIteration):
        pipeline.run()

    files[1] = bytearray(encode_bands(images[1][..., :5]))
    assert list(graphs.undecodable(files, [(40, 44), (40, 44), (9, 9)])) == [1, 2]
    bad = graphs.crop_pipeline(ViewSpec(views=(VIEW,)), lambda: graphs.crop_inputs(files, [place]))
    with pytest.raises(RuntimeError, match="5 bands of uint16 where the shards have 6 bands of 16 bits"):
        bad.run()
