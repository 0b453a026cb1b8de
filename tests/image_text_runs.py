"""What tests of methods of images and captions share: small objectives in float64, batches, engines' gradients."""

from collections.abc import Callable
from dataclasses import replace

import torch
from step_passes import take_passes
from torch import Tensor

from eyespot.data_pipeline.augment.views import TextView
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.families.image_text import ImageText
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

COUNT, SIZE, CONTEXT, END = 12, 16, 5, 49_407
TWICE = [0, 1, 2, 3, 4, 3, 6, 7, 8, 9, 1, 11]
"""Ids of a batch that holds two samples twice."""


def make_objective(method: type[ImageText]) -> ImageText:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    sizes = dict(out_dim=7, text_width=8, text_layers=2, text_heads=2, text=TextView(context=CONTEXT))
    return method.Config(**sizes).build(encoder, SIZE).double()


def make_batch(ids: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    texts = torch.randint(1000, (COUNT, CONTEXT), generator=generator)
    texts[::2, 3] = END
    texts[1::2, 4] = END
    numbers = torch.tensor(ids or list(range(COUNT)))
    return Batch(views=[images, texts], ids=numbers, epochs=torch.zeros_like(numbers), labels=numbers, seed=0)


def shares(batch: Batch, count: int) -> list[Batch]:
    """The batch in so many equal parts."""
    return [
        replace(batch, views=[view[rows] for view in batch.views], **{k: getattr(batch, k)[rows] for k in PER_SAMPLE})
        for rows in torch.arange(len(batch)).chunk(count)
    ]


PER_SAMPLE = ("ids", "epochs", "labels")


def engine_gradients(
    method: type[ImageText] | Callable[[], Objective], parts: list[Batch], world: World
) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step of so many micro-batches, and what an engine makes of its gradients.

    The losses of a method that compares all of a step are alike; of another one their mean counts.
    """
    objective = make_objective(method) if isinstance(method, type) else method()
    engine = make_engine(
        "ddp",
        objective,
        world,
        lambda module: make_optimizer(module, OptimConfig()),
        Settings(accumulate=len(parts), clip=None, precision="fp32"),
    )
    losses = [float(scalars["loss"]) for scalars in take_passes(engine, [(part, 0) for part in parts])]
    found = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    return sum(losses) / len(losses), found
