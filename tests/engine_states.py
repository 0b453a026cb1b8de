"""What the tests of engines share: tiny objectives, their batches, and an engine's whole state."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.loading.batch import Batch, noise_views
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.engine import DeepSpeedConfig, Engine, Settings, make_engine
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

ENGINES = ("ddp", "fsdp", "deepspeed 1", "deepspeed 2", "deepspeed 3")
AVERAGED = "moco"
"""Of this method the encoder's weights are averaged, too."""
COUNT = 6
"""Samples of a batch."""
NUM_SAMPLES = 32
"""Of the run."""


def make_objective(method: str) -> Objective:
    run = make_run(f"{method}_tiny")
    run.optim.ema = 0.15 if method == AVERAGED else 0.0
    torch.manual_seed(0)
    return fresh_objective(run, torch.arange(NUM_SAMPLES))


def make_batch(objective: Objective, count: int = COUNT, seed: int = 0) -> Batch:
    views = noise_views(objective.views(), count, generator=torch.Generator().manual_seed(seed))
    ids = torch.arange(count)
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids % 3, seed=0)


def make_images(objective: Objective, count: int = COUNT) -> torch.Tensor:
    """Whole images as evaluation shows them; views may be of other sizes."""
    size = objective.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def refresh(objective: Objective) -> None:
    """What the loop does before step 0 for a method that asks for it; every rank calls it."""
    if objective.refresh_epochs is None:
        return
    images = make_images(objective, NUM_SAMPLES)
    if objective.refresh_view is not None:
        (images,) = noise_views(ViewSpec(views=(objective.refresh_view,)), NUM_SAMPLES, generator=torch.Generator())
    images = images.to(next(objective.parameters()).dtype)
    with at_rest(objective):
        features = objective.refresh_features(images).float()
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    objective.refresh(features if first else None)


def rows_of(batch: Batch, rows: torch.Tensor) -> Batch:
    """Some of the batch's samples."""
    views = [view[rows] for view in batch.views]
    return replace(batch, views=views, ids=batch.ids[rows], epochs=batch.epochs[rows], labels=batch.labels[rows])


def own_batches(
    engine: Engine, world: process_group.World, convert: Callable[[Batch], Batch] = lambda batch: batch
) -> list[Batch]:
    """This rank's share of three batches."""
    own = torch.arange(COUNT).chunk(world.size)[world.rank]
    return [rows_of(convert(make_batch(engine.objective, seed=seed)), own) for seed in range(3)]


def whole_state(engine: Engine) -> dict[str, np.ndarray]:
    """Every tensor whole, whoever holds it; on every rank."""
    tensors = engine.save_tensors()
    own = {name: getattr(tensor, "full_tensor", tensor.clone)().cpu().numpy() for name, tensor in tensors.items()}
    if not torch.distributed.is_initialized():
        return own
    parts: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return {name: tensor for part in parts for name, tensor in part.items()}


def make_single_engine(method: str, engine_name: str, world: process_group.World, **changes) -> Engine:
    name, _, stage = engine_name.partition(" ")
    run = make_run(f"{method}_tiny")
    settings = Settings(micro_batch_size=COUNT // world.size, deepspeed=DeepSpeedConfig(stage=int(stage or 2)))
    optim = changes.pop("optim", None) or replace(run.optim, name="sgd", momentum=0.9, weight_decay=0.01)
    return make_engine(
        name, make_objective(method), world, lambda module: make_optimizer(module, optim), replace(settings, **changes)
    )
