"""From a run's data settings to a loader's: which shards, which views, how the batch is dealt."""

from dataclasses import replace
from pathlib import Path

from eyespot.data_pipeline.batch import Batch
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loader import LoaderSpec, cpu_share, make_loader
from eyespot.data_pipeline.manifest import Manifest, find_shards, read_manifest
from eyespot.data_pipeline.views import ViewSpec
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.dist import World
from eyespot.pretrain.objective import NUM_PICTURED, Objective


def open_shards(data: DataConfig) -> tuple[Path, Manifest]:
    """The folder with the training shards and its manifest.

    Raises:
        UserError: none is given, or there are none.
    """
    if data.shards is None:
        raise UserError("data.shards: not given; add --data.shards FOLDER, made with: eyespot shards pack SRC FOLDER")
    folder = find_shards(data.shards)
    return folder, read_manifest(folder)


def check_labels(objective: Objective, shards: Path, manifest: Manifest) -> None:
    """Whether there are labels where the method needs them.

    Raises:
        UserError: there are none.
    """
    if objective.needs_labels and not manifest.num_labeled:
        raise UserError(
            f"data.shards {shards}: {type(objective).__name__} needs labels and no image has one; pack class folders"
        )


def normalized(views: ViewSpec, data: DataConfig, manifest: Manifest) -> ViewSpec:
    """The views with the mean and standard deviation that the run asks for."""
    if data.normalize == "imagenet":
        return views
    return replace(views, mean=manifest.image_stats.mean, std=manifest.image_stats.std)


def loader_spec(run: Run, shards: Path, views: ViewSpec, world: World) -> LoaderSpec:
    """One micro-batch over all ranks.

    Raises:
        UserError: the batch cannot be dealt evenly to ranks and micro-batches.
    """
    data, parts = run.data, world.size * run.data.accumulate
    if data.batch_size % parts:
        raise UserError(
            f"data.batch_size {data.batch_size}: must be a multiple of {parts}"
            f" ({world.size} ranks x {data.accumulate} micro-batches)"
        )
    return LoaderSpec(
        shards=shards,
        views=views,
        batch_size=data.batch_size // data.accumulate,
        seed=run.seed,
        device=str(world.device),
        num_threads=data.num_threads or cpu_share(),
        max_bad_fraction=data.max_bad_fraction,
    )


def pictured_batch(spec: LoaderSpec, manifest: Manifest, world: World) -> Batch:
    """The same few samples for every picture of the run, so that a person can compare them."""
    per_rank = max(1, min(NUM_PICTURED, manifest.num_samples // world.size))
    loader = make_loader(replace(spec, batch_size=per_rank * world.size), world.rank, world.size)
    try:
        return next(loader)
    finally:
        loader.close()
