"""Regions of images of bands: what DALI does for pictures, here without decoding: a region is a part of the array."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from eyespot.data_pipeline.augment.crop_geometry import Geometry
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.loading.dali_graphs import File, Source
from eyespot.data_pipeline.shards.bands.stored_bands import Bands, decode_bands

Crops = list[Integer[np.ndarray, "_ _ c"]]


class BandGraphs:
    """Stands where ``dali_graphs`` does for shards of pictures.

    Args:
        bands: what the shards' images are.
    """

    def __init__(self, bands: Bands):
        self.bands = bands

    def crop_pipeline(self, views: ViewSpec, source: Source, **_: int) -> "BandCrops":
        """One ragged batch of HWC regions per view, in the memory of the files."""
        return BandCrops(self.bands, source)

    def crop_inputs(self, files: Sequence[File], geometry: list[Geometry]) -> list[Any]:
        """What the pipeline reads for one batch."""
        return [files, geometry]

    def undecodable(self, files: Sequence[File], sizes: Sequence[tuple[int, int]]) -> dict[int, str]:
        """Which of some files cannot be read, and what is wrong with each.

        Args:
            files: of images.
            sizes: their heights and widths, as they should be.
        """
        found: dict[int, str] = {}
        for place, (file, size) in enumerate(zip(files, sizes, strict=True)):
            try:
                height, width, _ = decode_bands(file, self.bands).shape
            except ValueError as error:
                found[place] = str(error)
                continue
            if (height, width) != tuple(size):
                found[place] = f"{width} x {height} pixels where the index says {size[1]} x {size[0]}"
        return found


class BandCrops:
    """A pipeline: each ``run`` asks the source once, and gives what was cut out of that."""

    def __init__(self, bands: Bands, source: Source):
        self._bands, self._source = bands, source

    def run(self) -> list[Crops]:
        """The regions of each view.

        Raises:
            StopIteration: there are no more.
            RuntimeError: a file is no such image.
        """
        files, geometry = self._source()
        try:
            images = [decode_bands(file, self._bands) for file in files]
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        return [list(_cut(images, place)) for place in geometry]


def _cut(images: Sequence[np.ndarray], place: Geometry) -> Iterator[np.ndarray]:
    for image, (top, left), (height, width) in zip(images, place.start.tolist(), place.shape.tolist(), strict=True):
        yield image[top : top + height, left : left + width]
