"""Does DALI see an image file as PIL does? Asked once, when a file is packed or indexed.

The loader hands files to DALI's decoder unseen: DALI 2.4 crashes the whole process where it cannot parse one, or where
the region to decode lies outside the image. So every stored file has its header proved here, and the loader proves by
checksums that files and sizes are still the same.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import nvidia.dali.fn
import nvidia.dali.types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.tensors import TensorCPU, TensorListCPU

fn: Any = nvidia.dali.fn  # DALI makes its functions and types at run time: no type checker can see them
types: Any = nvidia.dali.types

BATCH_SIZE = 32

Size = tuple[int, int]


def header_sizes(files: Sequence[bytes]) -> list[Size | None]:
    """The (height, width) in pixels that DALI reads off each file's header; None where it cannot read it."""
    if len(files) > BATCH_SIZE:
        return header_sizes(files[:BATCH_SIZE]) + header_sizes(files[BATCH_SIZE:])
    if not files or not all(files):
        return [header_sizes([file])[0] if file else None for file in files]
    try:
        pipeline = _pipeline()
        pipeline.feed_input("files", TensorListCPU([TensorCPU(file) for file in files]))
        output: Any = pipeline.run()
    except RuntimeError:  # says that some file is unreadable, not which
        _pipeline.cache_clear()  # a pipeline is of no use after an error
        half = len(files) // 2
        return header_sizes(files[:half]) + header_sizes(files[half:]) if half else [None]
    return [(height, width) for height, width in np.asarray(output[0].as_array())[:, :2].tolist()]


@lru_cache(maxsize=1)
def _pipeline() -> Pipeline:
    pipeline = Pipeline(batch_size=BATCH_SIZE, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        files = fn.external_source(name="files", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(fn.peek_image_shape(files, adjust_orientation=False))
    return pipeline
