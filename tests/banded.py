"""Images of six bands and 16 bits, as instruments and their tools write them."""

import io
from pathlib import Path

import numpy as np
import tifffile

COUNT, SIDE = 6, 40


def scene(seed: int, brighter: bool = False) -> np.ndarray:
    """(40, 44, 6) uint16: blocks, and noise that no rounding survives; of one of two classes."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 40_000, (SIDE // 4, 11, COUNT)).repeat(4, 0).repeat(4, 1)
    blocks[..., 0] = blocks[..., 0] // 4 + (30_000 if brighter else 0)
    return (blocks + draw.integers(0, 20_000, blocks.shape)).astype(np.uint16)


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    """A TIFF; the options are tifffile's."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, photometric="minisblack", **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    """What ``np.save`` writes, pickles included."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def written(pixels: np.ndarray) -> dict[str, bytes]:
    """One image in many files: layouts, byte orders, compressions."""
    apart, together = np.moveaxis(pixels, 2, 0), {"planarconfig": "contig"}
    return {
        "array.npy": npy(pixels),
        "channels-first.npy": npy(apart),
        "big-endian.npy": npy(pixels.astype(">u2")),
        "columns.npy": npy(np.asfortranarray(pixels)),
        "strips.tif": tiff(pixels, rowsperstrip=7, **together),
        "pages.tif": tiff(apart, byteorder=">"),
        "planes.tif": tiff(apart, planarconfig="separate", compression="zstd", tile=(32, 32)),
        "gdal.tif": tiff(pixels, tile=(16, 16), compression="lzw", predictor=2, **together),
        "deflate.tif": tiff(pixels, compression="deflate", predictor=2, byteorder=">", bigtiff=True, **together),
        "packbits.tiff": tiff(apart, compression="packbits"),
    }


def write_folder(folder: Path, num_images: int = 24) -> Path:
    """Scenes of two classes in folders, each file written in another way."""
    for number in range(num_images):
        pixels = scene(number, brighter=bool(number % 2))
        names = list(written(pixels).items())
        name, data = names[number % len(names)]
        place = folder / "ab"[number % 2] / f"{number:03d}-{name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder
