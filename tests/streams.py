"""What loaders deliver, as something that two of them can be compared by."""

import torch

from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader


def take(loader, num_batches: int) -> list:
    batches = [next(loader) for _ in range(num_batches)]
    loader.close()
    return batches


def stream(batches) -> tuple:
    """Everything that a list of batches holds, sample by sample, as bytes."""
    views = [torch.cat(view).numpy().tobytes() for view in zip(*(batch.views for batch in batches), strict=True)]
    rest = [torch.cat([getattr(batch, name) for batch in batches]).tolist() for name in ("ids", "epochs", "labels")]
    return *views, *rest


def global_stream(spec: LoaderSpec, world_size: int, num_batches: int, state=None) -> tuple:
    """What all ranks together deliver, in the order of the stream."""
    ranks = [take(make_loader(spec, rank, world_size, state), num_batches) for rank in range(world_size)]
    return stream([batch for step in zip(*ranks, strict=True) for batch in step])
