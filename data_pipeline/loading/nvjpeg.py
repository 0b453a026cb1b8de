"""How nvJPEG decodes on a GPU: its settings, how much memory it reserves, which version of it there is,
and whether it was the GPU that failed.

What the hardware decoders do is for A100, H100 and their like only; other GPUs decode with CUDA and leave the numbers
for them unused. The two round differently, so a share below 1 lets an image's bits depend on its place in a batch.
"""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.manifest import ImageStats

LOAD = "must lie between 0 and 1, as it is a share of each batch; leave it out for 1, all of them"
Decode = Literal["auto", "gpu", "cpu"]

REGIONS_SINCE = (13, 2)
"""The first nvJPEG that decodes a part of an image and smooths its colours as libjpeg does; to older ones nvImageCodec
gives no such image, and decodes it on the CPU without a word."""
LIBRARY = "libnvjpeg.so.13"
BYTES_PER_PIXEL = 3


@dataclass(kw_only=True, slots=True, frozen=True)
class NvjpegConfig:
    """How nvJPEG decodes on a GPU; the CPU's decoder has no such settings."""

    hw_decoder_load: Annotated[float, Ge(0), Le(1), LOAD] = 1.0
    """Share of each batch that the JPEG engines of an A100 (5) or H100 (7) decode, beside its cores; CUDA decodes the
    rest, for which the CPU does a part. With 1 or 0 an image has the same bits in every batch; between them who decodes
    it, and so its last bits, depend on its place there, and on the number of ranks. 0 = no engines, which pays where
    they hold the steps up and the CPU's cores are idle. Other GPUs have no engines, and leave it."""
    hybrid_huffman_threshold: Annotated[int, Ge(0)] = 1_000_000
    """Images of more pixels than this leave a part of their entropy decoding to the GPU, smaller ones do it on the CPU;
    0 = all of them do: for nodes with few CPU cores per GPU."""
    preallocate_mb: Annotated[int, Ge(0)] = 512
    """GPU memory that the JPEG engines reserve at the start, at most: as much as a batch of the shards' largest image
    takes. They take more when they need it, and stall meanwhile. 0 = none."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.nvjpeg.")

    def decoder_arguments(self, stats: ImageStats, batch_size: int) -> dict[str, Any]:
        """What DALI's decoder is told, for batches of so many of the shards' images."""
        height, width = largest_reserved(stats, batch_size, self.preallocate_mb * 1_000_000)
        return dict(
            hw_decoder_load=self.hw_decoder_load,
            hybrid_huffman_threshold=self.hybrid_huffman_threshold,
            preallocate_height_hint=height,
            preallocate_width_hint=width,
        )


def largest_reserved(stats: ImageStats, batch_size: int, most_bytes: int) -> tuple[int, int]:
    """Height and width to reserve memory for, pixels: the largest image's, made smaller until a batch of them fits.

    One photograph of 60 megapixels among a million small ones would ask for 46 GB at a batch of 256. (0, 0) = none.
    """
    height, width = stats.height[2], stats.width[2]
    shrink = min(1.0, (most_bytes / (batch_size * BYTES_PER_PIXEL * height * width)) ** 0.5)
    return int(height * shrink), int(width * shrink)


def decodes_regions() -> bool:
    """Whether this process's nvJPEG can decode no more than a region; not so where nobody knows which it is."""
    found = version()
    return found is not None and found >= REGIONS_SINCE


@lru_cache(maxsize=1)
def version() -> tuple[int, int, int] | None:
    """Of the nvJPEG that this process uses from now on: DALI's companion, if it lies where pip puts it; None = unknown.

    It is loaded here, by its path, for a library that is loaded is not looked for again: else LD_LIBRARY_PATH would win
    (``module load cuda``), with the toolkit's older one. So this is called before DALI is imported.
    """
    beside = (Path(folder) / "nvidia" / "cu13" / "lib" / LIBRARY for folder in sys.path)
    for name in (*(str(path) for path in beside if path.is_file()), LIBRARY):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        numbers = [ctypes.c_int(-1) for _ in range(3)]
        if all(library.nvjpegGetProperty(which, ctypes.byref(number)) == 0 for which, number in enumerate(numbers)):
            major, minor, patch = (number.value for number in numbers)
            return major, minor, patch
    return None


def jpeg_engines() -> int | None:
    """JPEG engines (NVJPG) of the current GPU, which decode beside its cores: 0 = it has none; None = nobody knows."""
    if version() is None:
        return None
    library, handle, engines, cores = ctypes.CDLL(LIBRARY), ctypes.c_void_p(), ctypes.c_uint(0), ctypes.c_uint(0)
    if library.nvjpegCreateSimple(ctypes.byref(handle)):
        return None
    try:
        refused = library.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
    finally:
        library.nvjpegDestroy(handle)
    return None if refused else engines.value


def check_gpu(wait: Callable[[], None], error: Exception) -> None:
    """After DALI failed: whether the GPU itself did, which then fails whatever it is asked.

    Args:
        wait: for some of its work.
        error: DALI's.

    Raises:
        RuntimeError: it has. No image is at fault, and the CPU would decode them for a GPU that takes nothing.
    """
    try:
        wait()
    except RuntimeError as failure:
        first, *_ = str(failure).strip().splitlines() or [type(failure).__name__]
        raise RuntimeError(
            f"the GPU has failed, seen while images were decoded on it, none of which is at fault: {first}"
        ) from error
