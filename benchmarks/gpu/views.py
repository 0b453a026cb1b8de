"""Making views: whole batches alone and beside a GPU that is busy, and how many kernels and copies a batch takes."""

import contextlib
import time

import torch
from gpu.decode import packed
from gpu.instruments import DEVICE, DRY, Note, synchronize
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.loading.loader import Loader, LoaderSpec, make_loader
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.recipe_lookup import make_run

RECIPES = ("mae_vitb16_in1k", "simclr_r50_in1k", "dino_vits16_in1k", "finetune_mae_vitb16_in1k")
"""The last has RandAugment, which has kernels of its own."""
IMAGES, ROUNDS = (16, 2) if DRY else (256, 8)
PRODUCTS = 60
"""Of 8192 x 8192 each in bf16: about 85 ms of kernels of 1.4 ms on an H100."""


def run(note: Note) -> None:
    note("the products alone", f"{products():.0f} ms")
    for recipe in RECIPES[: 1 if DRY else None]:
        spec = views_of(recipe)
        for busy in (False, True):
            with contextlib.closing(loader_of(spec)) as loader:
                note(f"{recipe}, {'beside a busy GPU' if busy else 'alone'}", speed(loader, busy=busy))
        if not DRY:
            with contextlib.closing(loader_of(spec)) as loader:
                note(f"{recipe}, on the GPU", launches(loader))


def products() -> float:
    """Milliseconds of what keeps the GPU busy while a batch is awaited: less than a batch takes beside it, if at all.

    The chip's clock falls while they go on, so they are measured for as long.
    """
    square, begun = a_square(), time.perf_counter()
    for _ in range(ROUNDS):
        multiply(square)
    return 1000 * (time.perf_counter() - begun) / ROUNDS


def a_square() -> Tensor:
    return torch.randn(16 if DRY else 8192, 16 if DRY else 8192, device=DEVICE, dtype=torch.bfloat16)


def multiply(square: Tensor) -> None:
    """Fills the consumer's stream with matrix products, and waits for them."""
    for _ in range(2 if DRY else PRODUCTS):
        square @ square
    if not DRY:
        torch.cuda.current_stream().synchronize()


def views_of(recipe: str) -> ViewSpec:
    """What the recipe's method asks for."""
    with torch.device("meta"):
        return fresh_objective(make_run(recipe), torch.arange(100)).views()


def loader_of(views: ViewSpec) -> Loader:
    return make_loader(LoaderSpec(shards=packed(), views=views, batch_size=IMAGES, device=str(DEVICE)))


def speed(loader: Loader, *, busy: bool) -> str:
    """Images per second, and how long the first batch took, for which kernels are compiled where none did so before.

    With ``busy`` the consumer's stream is full of matrix products, as in training.
    """
    square = a_square()
    begun = time.perf_counter()
    next(loader)
    synchronize()
    first = time.perf_counter() - begun
    for _ in range(2):
        next(loader)
    synchronize()
    begun, cores = time.perf_counter(), time.process_time()
    for _ in range(ROUNDS):
        next(loader)
        if busy:
            multiply(square)
    wall = time.perf_counter() - begun
    cores = time.process_time() - cores
    each = f"{1000 * wall / ROUNDS:.0f} ms a batch, {cores / wall:.1f} cores busy, the first after {first:.1f} s"
    return f"{ROUNDS * IMAGES / wall:.0f} images/s, {each}"


def launches(loader: Loader) -> str:
    """Kernels and copies of a batch, those of the decoder among them."""
    for _ in range(6):  # until the loader waits for us, so that a batch is made for each that is taken
        next(loader)
        time.sleep(0.3)
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        for _ in range(ROUNDS):
            next(loader)
            time.sleep(0.3)
        synchronize()
    rows = [row for row in profile.key_averages() if row.device_type == torch.autograd.DeviceType.CUDA]
    copies = sum(row.count for row in rows if "HtoD" in row.key)
    kernels = sum(row.count for row in rows if not row.key.startswith(("Memcpy", "Memset")))
    busy = sum(row.self_device_time_total for row in rows) / 1000
    shown = f"{kernels / ROUNDS:.0f} kernels, {copies / ROUNDS:.0f} copies to it"
    return f"{shown}, {busy / ROUNDS:.1f} ms of its time a batch"
