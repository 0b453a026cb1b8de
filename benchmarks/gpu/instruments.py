"""What all phases of the check of a GPU measure with: clock, memory, photographs, and an engine with a batch."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from eyespot.data_pipeline.loading.batch import Batch, noise_views
from eyespot.pretrain.config import Run, engine_settings
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Engine, MicroBatch, make_engine
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

DRY = bool(os.environ.get("DRY"))
"""Tiny, on the CPU: shows that the phases run, and measures nothing."""
DEVICE = torch.device("cpu" if DRY else "cuda:0")
WORK = Path(os.environ.get("EYESPOT_GPU_WORK", ".gpu-check"))
"""Where photographs and what was found are kept."""

Note = Callable[[str, str], None]
"""``note(what, found)``: one row of the table, kept at once, so that what comes after it may crash."""


def synchronize() -> None:
    """Waits until the device has done what it was given."""
    if not DRY:
        torch.cuda.synchronize()


def milliseconds(call: Callable[[], Any], warm: int = 3, count: int = 10) -> float:
    """Median of the calls after the first few, each waited for."""
    for _ in range(1 if DRY else warm):
        call()
    synchronize()
    took: list[float] = []
    for _ in range(2 if DRY else count):
        begun = time.perf_counter()
        call()
        synchronize()
        took.append(1000 * (time.perf_counter() - begun))
    return statistics.median(took)


def peak_mebibytes(call: Callable[[], Any]) -> str:
    """Most memory of torch's at once during the call, beyond what was there before it."""
    if DRY:
        call()
        return "no memory of a GPU"
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    synchronize()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f} MiB"


@cache
def photographs() -> Path:
    """A folder of real pixels without carrying any: crops of scikit-learn's two photographs, 500 x 375, JPEG 4:2:0."""
    folder, drawn = WORK / "photographs", np.random.default_rng(0)
    bases = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(64 if DRY else 1024):
        path = folder / f"class{number % 4}" / f"{number:05d}.jpg"
        height, width = drawn.integers(250, 427), drawn.integers(300, 640)
        top, left = drawn.integers(0, 428 - height), drawn.integers(0, 641 - width)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            image = bases[number % 2].crop((left, top, left + width, top + height))
            image.resize((500, 375)).save(path, quality=92)
    return folder


def made_batch(objective: Objective, images: int) -> Batch:
    """Views of noise on the device."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    views = noise_views(objective.views(), images, device=DEVICE, generator=generator)
    ids = torch.arange(images)
    return Batch(views=views, ids=ids, epochs=ids * 0, labels=(ids % 2).to(DEVICE), seed=0)


def changed_run(recipe: str, images: int, **changes: Any) -> Run:
    """The recipe's run with so many images a step."""
    run = make_run(recipe)
    return replace(run, data=replace(run.data, batch_size=images, accumulate=1), **changes)


def made_engine(run: Run) -> Engine:
    """The run's engine on this one process, with the same weights every time."""
    torch.manual_seed(0)
    objective = fresh_objective(run, torch.arange(max(1000, run.data.batch_size)))
    world = World(rank=0, size=1, device=DEVICE)
    settings = engine_settings(run, 1)
    return make_engine(run.engine, objective, world, lambda module: make_optimizer(module, run.optim), settings)


def one_step(engine: Engine, batch: Batch, seed: int = 0) -> None:
    """Forward, backward, optimiser, and what the objective does after it: as the trainer does, without its records."""
    loss = engine.forward(MicroBatch(batch=batch, seed=seed))["loss"]
    engine.backward(loss)
    _, taken = engine.step(1e-4, loss.detach().isfinite())
    engine.objective.after_step(0.5, taken)


def timed_step(
    note: Note,
    name: str,
    engine: Engine,
    batch: Batch,
    unit: str = "images",
    before: Callable[[], None] = lambda: None,
) -> float:
    """Notes how long a step takes, how many images or views that is a second, and its memory. Returns milliseconds.

    What a run does ``before`` each of its steps is part of them.
    """

    def step() -> None:
        before()
        one_step(engine, batch)

    taken, memory = milliseconds(step), peak_mebibytes(step)
    count = len(batch) * (len(batch.views) if unit == "views" else 1)
    note(name, f"{taken:.1f} ms, {1000 * count / taken:.0f} {unit}/s, {memory} above the state")
    return taken


def give_back() -> None:
    """Memory that torch keeps for later; what was deleted before it counts as free then."""
    if not DRY:
        torch.cuda.empty_cache()
