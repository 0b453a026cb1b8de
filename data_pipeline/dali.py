"""The DALI graph: image files and geometry in, views out.

Everything random comes in from outside, so DALI keeps no state that would have to be saved, and a sample gives the same
bits wherever it sits in whatever batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import nvidia.dali.fn
import nvidia.dali.types
import torch
from jaxtyping import UInt8
from nvidia.dali.pipeline import Pipeline

from eyespot.data_pipeline.crops import Geometry, Pixels
from eyespot.data_pipeline.views import ViewSpec

fn: Any = nvidia.dali.fn  # DALI makes its functions and types at run time: no type checker can see them
types: Any = nvidia.dali.types

File = UInt8[np.ndarray, " _"]
Source = Callable[[], list[Any]]
"""Called once a batch; returns ``crop_inputs`` or ``view_inputs``, or raises StopIteration at the end."""


def crop_pipeline(views: ViewSpec, source: Source, *, batch_size: int, num_threads: int) -> Pipeline:
    """Decodes and crops on the CPU: one ragged batch of 8-bit HWC regions per view, for ``resize.resize_views``."""
    pipeline = Pipeline(batch_size=batch_size, num_threads=num_threads, device_id=None, prefetch_queue_depth=2)
    with pipeline:
        files, *places = _inputs(source, _CROP_INPUTS * len(views.views))
        pipeline.set_outputs(*_crops(files, places[::2], places[1::2], "cpu"))
    return pipeline


def crop_inputs(files: list[File], geometry: list[Geometry]) -> list[Any]:
    """What ``crop_pipeline`` reads for one batch: an image file per sample, and the geometry of each view."""
    return [files, *(pixels for place in geometry for pixels in (place.start, place.shape))]


def view_pipeline(
    views: ViewSpec, source: Source, *, batch_size: int, num_threads: int, device_id: int | None
) -> Pipeline:
    """The whole way in DALI: one batch of normalised float32 CHW views per view.

    Args:
        views: what is asked for.
        source: gives the inputs.
        batch_size: the most samples that a batch holds.
        num_threads: for what runs on the CPU.
        device_id: the GPU that decodes, resizes and normalises; None runs the same graph on the CPU.
    """
    device = "cpu" if device_id is None else "gpu"
    pipeline = Pipeline(batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=2)
    with pipeline:
        files, *places = _inputs(source, _VIEW_INPUTS * len(views.views))
        starts, shapes, *finishes = (places[number :: len(_VIEW_INPUTS)] for number in range(len(_VIEW_INPUTS)))
        crops = _crops(files, starts, shapes, device)
        finished = zip(views.views, crops, *finishes, strict=True)
        pipeline.set_outputs(*(_finish(views, view.size, *nodes, device=device) for view, *nodes in finished))
    return pipeline


def view_inputs(views: ViewSpec, files: list[File], geometry: list[Geometry]) -> list[Any]:
    """What ``view_pipeline`` reads for one batch: an image file per sample, and the geometry of each view."""
    inputs: list[Any] = [files]
    for view, place in zip(views.views, geometry, strict=True):
        room = np.maximum(place.resized - view.size, 1)
        vertical, horizontal = np.ascontiguousarray((place.offset / room).T, np.float32)
        inputs += [place.start, place.shape, place.resized.astype(np.float32), vertical, horizontal]
        inputs += [place.flip.astype(np.int32)]
    return inputs


_CROP_INPUTS = [
    (types.INT32, 1),  # start
    (types.INT32, 1),  # shape
]
_VIEW_INPUTS = [
    *_CROP_INPUTS,
    (types.FLOAT, 1),  # resized
    (types.FLOAT, 0),  # vertical position of the view, as a share of the room
    (types.FLOAT, 0),  # horizontal
    (types.INT32, 0),  # flip
]


def _inputs(source: Source, places: list[tuple[Any, int]]) -> list[Any]:
    dtypes, ndims = zip((types.UINT8, 1), *places, strict=True)
    return fn.external_source(source=source, num_outputs=len(dtypes), batch=True, dtype=list(dtypes), ndim=list(ndims))


def _crops(files: Any, starts: list[Any], shapes: list[Any], device: str) -> list[Any]:
    """One region per view. One view: decode no more than the region. Several: decode once and slice."""
    decoder: dict[str, Any] = dict(
        device="cpu" if device == "cpu" else "mixed", adjust_orientation=False, jpeg_fancy_upsampling=True
    )
    if len(starts) == 1:
        return [fn.decoders.image_slice(files, start=starts[0], shape=shapes[0], axes=[0, 1], **decoder)]
    images = fn.decoders.image(files, **decoder)
    places = zip(starts, shapes, strict=True)
    return [fn.slice(images, start=start, shape=shape, axes=[0, 1], device=device) for start, shape in places]


def _finish(
    views: ViewSpec, size: int, crop: Any, resized: Any, vertical: Any, horizontal: Any, flip: Any, *, device: str
) -> Any:
    return fn.crop_mirror_normalize(
        fn.resize(crop, size=resized, interp_type=types.INTERP_CUBIC, antialias=True, device=device),
        crop=(size, size),
        crop_pos_y=vertical,
        crop_pos_x=horizontal,
        mirror=flip,
        mean=[255 * value for value in views.mean],
        std=[255 * value for value in views.std],
        dtype=types.FLOAT,
        output_layout="CHW",
        device=device,
    )


class HeaderCheck:
    """Do image files have the sizes that the index promises?

    No file may reach the decoder unchecked: DALI 2.4 crashes the whole process where it cannot parse one, or where the
    region to decode lies outside the image.
    """

    def __init__(self, batch_size: int):
        """Checks up to ``batch_size`` files at a time."""
        self._batch_size = batch_size
        self._pipeline = self._build()
        self._files: list[File] = []

    def agrees(self, files: list[File], image_sizes: Pixels) -> bool:
        """Whether each file is an image of its height and width."""
        self._files = files
        try:
            output: Any = self._pipeline.run()
        except RuntimeError:
            self._pipeline = self._build()  # a pipeline is of no use after an error
            return False
        return bool((output[0].as_array()[:, :2] == image_sizes).all())

    def _build(self) -> Pipeline:
        pipeline = Pipeline(batch_size=self._batch_size, num_threads=1, device_id=None, prefetch_queue_depth=1)
        with pipeline:
            files = fn.external_source(source=lambda: self._files, dtype=types.UINT8, ndim=1)
            pipeline.set_outputs(fn.peek_image_shape(files, adjust_orientation=False))
        return pipeline


def why_undecodable(file: File, height: int, width: int) -> str | None:
    """Decodes one file on its own and says what is wrong with it; None where nothing is."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        node = fn.external_source(source=lambda: [file], dtype=types.UINT8, ndim=1)
        whole = fn.peek_image_shape(node, dtype=types.INT32, adjust_orientation=False)[
            0:2
        ]  # fails cleanly, and the decoder has to wait for it
        pipeline.set_outputs(
            fn.decoders.image_slice(
                node, start=0 * whole, shape=whole, axes=[0, 1], device="cpu", adjust_orientation=False
            )
        )
    try:
        output: Any = pipeline.run()
        shape = output[0].at(0).shape
    except (RuntimeError, MemoryError):
        return "DALI cannot decode it"
    if shape[:2] != (height, width):
        return f"{shape[1]} x {shape[0]} pixels where the index says {width} x {height}"
    return None


def to_torch(output: Any) -> torch.Tensor:
    """A copy of a dense GPU output that DALI cannot overwrite, made on a stream of its own."""
    stream = torch.cuda.Stream(output.device_id())
    with torch.cuda.stream(stream):
        copy = torch.from_dlpack(output.as_tensor()).clone()
    stream.synchronize()
    return copy
