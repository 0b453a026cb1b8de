"""ResNet-50's step: channels first and channels last, with and without cuDNN's search."""

from dataclasses import replace

import torch
from gpu.instruments import DRY, Note, changed_run, give_back, made_batch, made_engine, timed_step

RECIPE, IMAGES = ("simclr_tiny", 8) if DRY else ("simclr_r50_in1k", 128)
WAYS = {
    "channels first": (torch.contiguous_format, False),
    "channels last": (torch.channels_last, False),
    "channels last, cuDNN's search": (torch.channels_last, True),
}


def run(note: Note) -> None:
    for name, (layout, search) in WAYS.items():
        engine = made_engine(changed_run(RECIPE, IMAGES), lambda module, to=layout: module.to(memory_format=to))
        torch.backends.cudnn.benchmark = search  # which the engine has chosen for itself
        batch = made_batch(engine.objective, IMAGES)
        batch = replace(batch, views=[view.contiguous(memory_format=layout) for view in batch.views])
        timed_step(note, name, engine, batch, "views")
        engine.close()
        del engine, batch
        give_back()
