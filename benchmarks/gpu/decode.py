"""DALI: how near its levels are to the CPU's, which nvJPEG it loads, and how fast each of its decoders is."""

import contextlib
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu.instruments import DEVICE, DRY, WORK, Note, photographs, synchronize
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

BATCH = 32 if DRY else 256
DECODER, REST = ("cpu", "cpu") if DRY else ("mixed", "gpu")


@dataclass(kw_only=True, slots=True, frozen=True)
class Decoder:
    """One way to have nvJPEG decode."""

    region: bool = True
    """Decode the crop only, or the whole image and cut."""
    fancy: bool = True
    """Interpolate the chroma, as the CPU does."""
    hardware: float = 0.65
    """Share for the hardware engines, DALI's default."""
    threads: int = 16
    huffman: int | None = None
    """Pixels above which a GPU kernel does the Huffman part; None = DALI's default."""


DECODERS = {
    "region": Decoder(),
    "region, all in hardware": Decoder(hardware=1.0),
    "region, none in hardware": Decoder(hardware=0.0),
    "region, plain chroma": Decoder(fancy=False),
    "region, 4 threads": Decoder(threads=4),
    "region, none in hardware, Huffman on the GPU, 4 threads": Decoder(hardware=0.0, threads=4, huffman=0),
    "whole": Decoder(region=False),
    "whole, all in hardware, 4 threads": Decoder(region=False, hardware=1.0, threads=4),
}


@cache
def packed() -> ShardFolder:
    """The photographs as a shard folder."""
    folder = WORK / "shards"
    if not folder.exists():
        pack(str(photographs()), folder)
    return ShardFolder(folder)


def run(note: Note) -> None:
    for num_views in (1, 2):
        note(f"levels off the CPU's, {num_views} view(s): mean, 99 %, most", levels(num_views))
    maps = Path("/proc/self/maps").read_text().splitlines()
    note("nvJPEG", " ".join(sorted({line.split()[-1] for line in maps if "libnvjpeg.so" in line})) or "none is loaded")
    for name, decoder in list(DECODERS.items())[: 2 if DRY else None]:
        try:
            note(name, speed(decoder))
        except RuntimeError as error:  # of this setting; the others stand
            note(name, f"fails: {str(error).splitlines()[0]}")


def levels(num_views: int) -> str:
    """How far the first batch's pixels lie from those that the CPU makes of the same crops."""
    spec = ViewSpec(views=(RandomView(size=224),) * num_views)
    made: list[torch.Tensor] = []
    for device in (str(DEVICE), "cpu"):
        decode = "cpu" if device == "cpu" else "gpu"  # "auto" would let the CPU decode what nvJPEG refuses
        asked = LoaderSpec(shards=packed(), views=spec, batch_size=32, seed=3, device=device, decode=decode)
        with contextlib.closing(make_loader(asked)) as loader:
            made.append(next(loader).views[0].cpu().float())
    off = (made[0] - made[1]).abs() * torch.tensor(spec.std)[:, None, None] * 255
    return f"{float(off.mean()):.3f}, {float(off.flatten()[::97].quantile(0.99)):.2f}, {float(off.max()):.1f}"


def speed(decoder: Decoder) -> str:
    """Images per second through decoding, cropping and resizing."""
    paths = sorted(photographs().rglob("*.jpg"))[: BATCH * 4]
    files = [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]
    pipeline, rounds = graph(decoder, files), 2 if DRY else 12
    for _ in range(2):
        pipeline.run()
    begun, busy = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        pipeline.run()
    synchronize()
    wall, busy, images = time.perf_counter() - begun, time.process_time() - busy, rounds * BATCH
    return f"{images / wall:.0f} images/s, {1e6 * busy / images:.0f} us of a core each"


def graph(decoder: Decoder, files: list[np.ndarray]) -> Pipeline:
    """One view's graph, fed in turn."""
    turn = 0

    def feed() -> list[Any]:
        nonlocal turn
        turn += 1
        begin = turn * BATCH % len(files)
        chosen = (files + files)[begin : begin + BATCH]
        return [chosen, [np.array([20, 30], np.int32)] * BATCH, [np.array([250, 330], np.int32)] * BATCH]

    options: dict[str, Any] = dict(
        device=DECODER, adjust_orientation=False, jpeg_fancy_upsampling=decoder.fancy, output_type=types.RGB
    )
    if not DRY:
        options |= dict(hw_decoder_load=decoder.hardware, preallocate_width_hint=640, preallocate_height_hint=640) | (
            {} if decoder.huffman is None else dict(hybrid_huffman_threshold=decoder.huffman)
        )
    index = None if DRY else 0
    pipeline = Pipeline(batch_size=BATCH, num_threads=decoder.threads, device_id=index, prefetch_queue_depth=2)
    with pipeline:
        file, start, shape = fn.external_source(
            source=feed, num_outputs=3, batch=True, dtype=[types.UINT8, types.INT32, types.INT32], ndim=[1, 1, 1]
        )
        if decoder.region:
            image = fn.decoders.image_slice(file, start=start, shape=shape, axes=[0, 1], **options)
        else:
            image = fn.slice(fn.decoders.image(file, **options), start=start, shape=shape, axes=[0, 1], device=REST)
        size = dict(size=(224, 224), interp_type=types.INTERP_CUBIC, antialias=True)
        pipeline.set_outputs(fn.resize(image, device=REST, **size))
    return pipeline
