"""ResNet-50's step: channels first and channels last, with and without cuDNN's search."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from gpu.instruments import DRY, Note, changed_run, give_back, made_batch, made_engine, timed_step

from eyespot.pretrain.engines import ddp

RECIPE, IMAGES = ("simclr_tiny", 8) if DRY else ("simclr_r50_in1k", 128)
WAYS = {
    "channels first": (torch.contiguous_format, False),
    "channels last": (torch.channels_last, False),
    "channels last, cuDNN's search": (torch.channels_last, True),
}


def run(note: Note) -> None:
    for name, (layout, search) in WAYS.items():
        with laid_out(layout):
            engine = made_engine(changed_run(RECIPE, IMAGES))
        torch.backends.cudnn.benchmark = search  # which the engine has chosen for itself
        batch = made_batch(engine.objective, IMAGES)
        batch = replace(batch, views=[view.contiguous(memory_format=layout) for view in batch.views])
        timed_step(note, name, engine, batch, "views")
        engine.close()
        del engine, batch
        give_back()


@contextmanager
def laid_out(layout: torch.memory_format) -> Iterator[None]:
    """Engines made within it lay their weights out so, before their optimiser makes its slots; not as they choose."""
    chosen, ddp.choose_layout = ddp.choose_layout, lambda module, _: module.to(memory_format=layout)
    try:
        yield
    finally:
        ddp.choose_layout = chosen
