"""From the bytes of any image to what an encoder sees of it, one by one: the pixels that ``eyespot.embed`` makes."""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eyespot.data_pipeline.augment.crop_geometry import Geometry, center_crops
from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
from eyespot.data_pipeline.loading import dali_graphs
from eyespot.data_pipeline.loading.resize import resize_views
from eyespot.data_pipeline.shards.header_check import header_sizes
from eyespot.data_pipeline.shards.image_check import MISREAD, TOO_LARGE, BadImage, Examined, examine, opened


class ImageViews:
    """Examines, decodes and resizes images. One thread at a time may use it: Pillow's limits are of the process.

    Args:
        views: one evaluation view, with mean and standard deviation.
        max_pixels: height times width of the largest image that is decoded.
    """

    def __init__(self, views: ViewSpec, max_pixels: int) -> None:
        self._views, self._max_pixels = views, max_pixels
        self._pipeline: Any = None
        self._inputs: list[Any] = []

    def __call__(self, file: bytes) -> Float[Tensor, "3 size size"]:
        """The view of one image, normalised; turned upright, transparency on white, as ``eyespot shards pack`` does.

        Raises:
            BadImage: the bytes are no whole image, or one of too many pixels.
        """
        view = self._views.views[0]
        assert isinstance(view, CenterView)
        stored = self._stored(file)
        geometry = center_crops(view, np.array([[stored.height, stored.width]], np.int32))
        made = np.empty((1, 3, view.size, view.size), np.float32)
        resize_views([self._crop(stored, geometry)], geometry, None, self._views.mean, self._views.std, made)
        return torch.from_numpy(made)[0]

    def pixels(self, file: bytes) -> int:
        """Height times width, as its header says; 0 of what has none, of which nothing will be decoded."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = opened(file)
        except Exception:  # hostile bytes make PIL raise almost anything; the view will say what is wrong
            return 0
        return image.width * image.height

    def _stored(self, file: bytes) -> Examined:
        """As it would be packed: DALI gets no bytes that Pillow has not decoded, of no size that DALI does not see."""
        for rewrite in (None, "unusual header"):
            try:
                stored = examine(file, rewrite=rewrite, max_pixels=self._max_pixels)
            except BadImage as error:
                if str(error) != TOO_LARGE:
                    raise
                raise BadImage(f"more than {self._max_pixels / 1e6:g} megapixels (--max-megapixels)") from error
            if header_sizes([stored.data]) == [(stored.height, stored.width)]:
                return stored
        raise BadImage(MISREAD)

    def _crop(self, stored: Examined, geometry: Geometry) -> np.ndarray:
        if self._pipeline is None:
            options = dict(batch_size=1, num_threads=1, depth=1)
            self._pipeline = dali_graphs.crop_pipeline(self._views, lambda: self._inputs, **options)
        self._inputs = dali_graphs.crop_inputs([stored.data], [geometry])
        try:
            (crops,) = self._pipeline.run()
            return np.array(crops[0])
        except (RuntimeError, MemoryError) as error:
            self._pipeline = None  # of no use after an error
            raise BadImage("DALI cannot decode it") from error
