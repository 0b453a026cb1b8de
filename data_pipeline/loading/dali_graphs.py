"""The DALI graphs: image files and geometry in, crops or views out.

Everything random comes in from outside, so DALI keeps no state that would have to be saved, and a sample gives the same
bits wherever it sits in whatever batch.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import nvidia.dali.fn
import nvidia.dali.types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.tensors import TensorCPU, TensorListCPU
from PIL import Image

from eyespot.data_pipeline.augment.crop_geometry import Geometry
from eyespot.data_pipeline.augment.views import CenterView, ImageView, ViewSpec
from eyespot.data_pipeline.shards.image_check import opened

fn: Any = nvidia.dali.fn  # DALI makes its functions and types at run time: no type checker can see them
types: Any = nvidia.dali.types

File = bytes | bytearray
Source = Callable[[], list[Any]]
"""Called once a batch; returns ``crop_inputs`` or ``view_inputs``, or raises StopIteration at the end."""
QUEUE_DEPTH = 2
"""Batches that DALI works at, or has finished."""


def crop_pipeline(
    views: ViewSpec, source: Source, *, batch_size: int, num_threads: int, depth: int = QUEUE_DEPTH
) -> Pipeline:
    """Decodes and crops on the CPU: one ragged batch of 8-bit HWC regions per view, for ``resize.resize_views``.

    With a ``depth`` of 1 each ``run`` asks the source once, and gives what was made of that.
    """
    pipeline = Pipeline(batch_size=batch_size, num_threads=num_threads, device_id=None, prefetch_queue_depth=depth)
    with pipeline:
        files, *places = _inputs(source, _CROP_INPUTS * len(views.images))
        pipeline.set_outputs(*_crops(files, places[::2], places[1::2], "cpu", whole=len(views.images) > 1, nvjpeg={}))
    return pipeline


def crop_inputs(files: Sequence[File], geometry: list[Geometry]) -> list[Any]:
    """What ``crop_pipeline`` reads for one batch: an image file per sample, and the geometry of each view."""
    return [_batch(files), *(pixels for place in geometry for pixels in (place.start, place.shape))]


def view_pipeline(
    views: ViewSpec,
    source: Source,
    *,
    batch_size: int,
    num_threads: int,
    device_id: int | None,
    regions: bool = True,
    nvjpeg: dict[str, Any] | None = None,
) -> Pipeline:
    """Decodes, crops, resizes and flips who need not be flipped last: one dense batch of 8-bit HWC views per view.

    Args:
        views: what is asked for.
        source: gives the inputs.
        batch_size: the most samples that a batch holds.
        num_threads: for what runs on the CPU.
        device_id: the GPU that decodes and resizes; None runs the same graph on the CPU.
        regions: whether the decoder can decode a region alone (``nvjpeg.decodes_regions``); else even one view's is cut
            out of the whole image.
        nvjpeg: further arguments of the GPU's decoder (``NvjpegConfig.decoder_arguments``).
    """
    device = "cpu" if device_id is None else "gpu"
    pipeline = Pipeline(
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=QUEUE_DEPTH
    )
    with pipeline:
        files, *places = _shared_inputs(source, _VIEW_INPUTS * len(views.images))
        starts, shapes, firsts, lasts = (places[number :: len(_VIEW_INPUTS)] for number in range(len(_VIEW_INPUTS)))
        whole = len(views.images) > 1 or not regions
        crops = _crops(files, starts, shapes, device, whole=whole, nvjpeg=nvjpeg or {})
        resized = zip(views.images, crops, firsts, lasts, strict=True)
        pipeline.set_outputs(*(_resize(view, *nodes, device=device) for view, *nodes in resized))
    return pipeline


def view_inputs(views: ViewSpec, files: Sequence[File], geometry: list[Geometry]) -> list[Any]:
    """What ``view_pipeline`` reads for one batch: an image file per sample, and the geometry of each view.

    DALI resizes the part of the crop between two corners, and mirrors it where the second lies left of the first.
    """
    inputs: list[Any] = [_batch(files)]
    for view, place in zip(views.images, geometry, strict=True):
        scale = place.shape / place.resized
        first, last = place.offset * scale, (place.offset + view.size) * scale
        flip = place.flip_resized
        first[flip, 1], last[flip, 1] = last[flip, 1], first[flip, 1]
        inputs += [place.start, place.shape, first.astype(np.float32), last.astype(np.float32)]
    return inputs


def _batch(files: Sequence[File]) -> TensorListCPU:
    """Built here: DALI's own checks of a list of arrays cost as much as resizing a small image."""
    return TensorListCPU([TensorCPU(file) for file in files], contiguous=False)  # pyright: ignore[reportCallIssue]


_CROP_INPUTS = [
    (types.INT32, 1),  # start
    (types.INT32, 1),  # shape
]
_VIEW_INPUTS = [
    *_CROP_INPUTS,
    (types.FLOAT, 1),  # first corner in the crop
    (types.FLOAT, 1),  # last corner
]


def _inputs(source: Source, places: list[tuple[Any, int]], *, no_copy: bool = False) -> list[Any]:
    dtypes, ndims = zip((types.UINT8, 1), *places, strict=True)
    options = dict(dtype=list(dtypes), ndim=list(ndims), no_copy=no_copy)
    return fn.external_source(source=source, num_outputs=len(dtypes), batch=True, **options)


def _shared_inputs(source: Source, places: list[tuple[Any, int]]) -> list[Any]:
    """As ``_inputs``, without DALI's first copy, for which all Python threads wait, the trainer's among them.

    (5 ms for 256 files of 110 KB, on a CPU.) Files come from the reader one by one, and as one list; DALI's own threads
    copy it into pinned memory where an operator wants that. nvJPEG does not, so nothing is pinned here, which would
    cost another copy: what its CUDA decoder sends to the GPU is in buffers of its own, after the CPU has parsed the
    file. external_source's own prefetching needs worker processes, and the reader is ahead by more batches already.

    DALI holds what it reads; we do so a little longer, lest one of its threads has to wait for Python to let go of it.
    """
    held: deque[list[Any]] = deque(maxlen=QUEUE_DEPTH + 2)

    def shared() -> list[Any]:
        files, *rest = source()
        held.append([files, *map(TensorListCPU, rest)])
        return held[-1]

    return _inputs(shared, places, no_copy=True)


def _crops(
    files: Any, starts: list[Any], shapes: list[Any], device: str, *, whole: bool, nvjpeg: dict[str, Any]
) -> list[Any]:
    """One region per view: cut out of the whole image, which is decoded once, or no more than it is decoded."""
    decoder: dict[str, Any] = dict(
        device="cpu" if device == "cpu" else "mixed", adjust_orientation=False, jpeg_fancy_upsampling=True
    )
    if device == "gpu":
        decoder |= nvjpeg
    places = zip(starts, shapes, strict=True)
    if not whole:
        return [
            fn.decoders.image_slice(files, start=start, shape=shape, axes=[0, 1], **decoder) for start, shape in places
        ]
    images = fn.decoders.image(files, **decoder)
    return [fn.slice(images, start=start, shape=shape, axes=[0, 1], device=device) for start, shape in places]


def _resize(view: ImageView, crop: Any, first: Any, last: Any, *, device: str) -> Any:
    linear = isinstance(view, CenterView) and view.interpolation == "bilinear"
    return fn.resize(
        crop,
        size=(view.size, view.size),
        roi_start=first,
        roi_end=last,
        interp_type=types.INTERP_LINEAR if linear else types.INTERP_CUBIC,
        antialias=True,
        device=device,
    )


def undecodable(files: Sequence[File], sizes: Sequence[tuple[int, int]]) -> dict[int, str]:
    """Which of some files cannot be decoded, and what is wrong with each.

    Args:
        files: of images.
        sizes: their heights and widths, as they should be.
    """
    found = {place: reason for place, file in enumerate(files) if (reason := _pillow_says(file))}
    asked = [[place for place in range(len(files)) if place not in found]]
    while asked:
        if not (some := asked.pop()):
            continue
        shapes = _decoded_shapes([files[place] for place in some])
        if shapes is None and len(some) > 1:  # by halves: a pipeline for each file would take seconds
            asked += [some[: len(some) // 2], some[len(some) // 2 :]]
            continue
        for place, shape in zip(some, shapes or [None], strict=True):
            if shape is None:
                found[place] = "DALI cannot decode it"
            elif shape != tuple(sizes[place]):
                told = "{1} x {0}".format(*shape), "{1} x {0}".format(*sizes[place])
                found[place] = f"{told[0]} pixels where the index says {told[1]}"
    return dict(sorted(found.items()))


def _pillow_says(file: File) -> str | None:
    """First by Pillow: DALI's libraries write what they think of a file to the terminal."""
    try:
        with opened(file) as image:
            image.load()
    except (OSError, SyntaxError):
        return "Pillow cannot decode it"
    except (ValueError, RuntimeError, MemoryError, Image.DecompressionBombError):
        pass  # DALI has the last word
    return None


def _decoded_shapes(files: list[File]) -> list[tuple[int, int]] | None:
    """Height and width of each file as DALI decodes it; None where one cannot be."""
    pipeline = Pipeline(batch_size=len(files), num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        node = fn.external_source(source=lambda: _batch(files), dtype=types.UINT8, ndim=1)
        whole = fn.peek_image_shape(node, dtype=types.INT32, adjust_orientation=False)[
            0:2
        ]  # fails cleanly, and the decoder has to wait for it
        pipeline.set_outputs(
            fn.decoders.image_slice(
                node, start=0 * whole, shape=whole, axes=[0, 1], device="cpu", adjust_orientation=False
            )
        )
    try:
        (images,) = pipeline.run()
        return [tuple(np.asarray(image).shape[:2]) for image in images]
    except (RuntimeError, MemoryError):
        return None
