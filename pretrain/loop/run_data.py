"""From a run's data settings to a loader's: which shards, which views, how the batch is dealt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.loader import LoaderSpec, cpu_share, make_loader
from eyespot.data_pipeline.shards.manifest import Manifest, find_shards, read_index, read_manifest
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.objective import Objective


def open_shards(data: DataConfig) -> tuple[Path, Manifest]:
    """The folder with the training shards and its manifest.

    Raises:
        UserError: none is given, or there are none.
    """
    if data.shards is None:
        raise UserError("data.shards: not given; add --data.shards FOLDER, made with: eyespot shards pack SRC FOLDER")
    folder = find_shards(data.shards)
    return folder, read_manifest(folder)


def chosen_ids(data: DataConfig, manifest: Manifest) -> Int64[np.ndarray, " n"] | None:
    """The samples that ``data.ids`` names; None = all.

    Raises:
        UserError: the file cannot be read, or names no samples, one twice, or one that is not there.
    """
    return None if data.ids is None else _read_ids(f"data.ids {data.ids}", data.ids, manifest)


def labeled_ids(data: DataConfig, shards: Path, manifest: Manifest) -> Int64[np.ndarray, " n"] | None:
    """The samples whose labels ``data.labeled_ids`` lets the run see; None = all that have one.

    Raises:
        UserError: the file cannot be read, or names no samples, one twice, or one that is not there or has no label.
    """
    if data.labeled_ids is None:
        return None
    field = f"data.labeled_ids {data.labeled_ids}"
    ids = _read_ids(field, data.labeled_ids, manifest)
    unlabeled = ids[read_index(shards, manifest)["label"][ids] < 0]
    if len(unlabeled):
        raise UserError(f"{field}: {len(unlabeled)} of {len(ids)} samples have no label (the first: {unlabeled[0]})")
    return ids


def _read_ids(field: str, path: Path, manifest: Manifest) -> Int64[np.ndarray, " n"]:
    try:
        ids = np.array([int(line) for line in path.read_text(encoding="utf-8").split()], np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"{field}: cannot be read as one id a line ({error})") from error
    if not len(ids) or len(np.unique(ids)) < len(ids) or ids.min() < 0 or ids.max() >= manifest.num_samples:
        raise UserError(f"{field}: must name different samples from 0 to {manifest.num_samples - 1}, at least one")
    return ids


def sample_ids(data: DataConfig, manifest: Manifest) -> Int[Tensor, " n"]:
    """All samples that the run learns from, ascending.

    Raises:
        UserError: as ``chosen_ids``.
    """
    ids = chosen_ids(data, manifest)
    return torch.arange(manifest.num_samples) if ids is None else torch.from_numpy(np.sort(ids))


def check_labels(objective: Objective, shards: Path, manifest: Manifest, run: Run) -> None:
    """Whether the run sees labels where its method needs them, and those it can tell apart.

    Raises:
        UserError: it sees none, too few, or others; or which it may see is said of a method that asks for none or all.
    """
    data, needs, method = run.data, run.objective.needs_labels(), type(objective).__name__
    if data.labeled_ids is not None and needs != "some":
        instead = "leave it out" if needs == "none" else "name them in data.ids"
        raise UserError(f"data.labeled_ids {data.labeled_ids}: {method} learns from {needs} of the labels; {instead}")
    if needs == "none":
        return
    if not manifest.num_labeled:
        raise UserError(f"data.shards {shards}: {method} needs labels and no image has one; pack class folders")
    labels = _seen_labels(data, shards, manifest)
    if labels.max() < 0:
        field = "ids" if data.labeled_ids is None else "labeled_ids"
        raise UserError(f"data.{field}: {method} needs labels, and of the samples that it sees none has one")
    if needs == "all" and labels.min() < 0:
        raise UserError(
            f"data.shards {shards}: {(labels < 0).sum()} of {len(labels)} images have no label;"
            " name the others in data.ids"
        )
    if objective.num_classes is not None and labels.max() >= objective.num_classes:
        raise UserError(
            f"objective.num_classes {objective.num_classes}: {shards} has label {labels.max()}; set it to"
            f" {max(len(manifest.classes), labels.max() + 1)}"
        )


def _seen_labels(data: DataConfig, shards: Path, manifest: Manifest) -> Int[np.ndarray, " n"]:
    """Of the samples that the run learns from."""
    labels, known = read_index(shards, manifest)["label"], labeled_ids(data, shards, manifest)
    if known is not None:
        labels, every = np.full_like(labels, -1), labels
        labels[known] = every[known]
    ids = chosen_ids(data, manifest)
    return labels if ids is None else labels[ids]


def normalized(views: ViewSpec, data: DataConfig, manifest: Manifest) -> ViewSpec:
    """The views with the mean and standard deviation that the run asks for.

    Raises:
        UserError: the method computes with colours and counts on its own.
    """
    if views.fixed and (data.mean is not None or data.normalize != "imagenet"):
        asked = "data.normalize 'dataset'" if data.mean is None else f"data.mean {data.mean}"
        raise UserError(
            f"{asked}: this method computes with colours; leave data.normalize at imagenet, data.mean unset"
        )
    if data.mean is not None and data.std is not None:
        return replace(views, mean=data.mean, std=data.std)
    if data.normalize == "imagenet":
        return views
    return replace(views, mean=manifest.image_stats.mean, std=manifest.image_stats.std)


def loader_spec(run: Run, shards: Path, views: ViewSpec, world: World) -> LoaderSpec:
    """One micro-batch over all ranks.

    Of other shards than the run's own, which a monitor may look at, all samples and labels are seen.

    Raises:
        UserError: the batch cannot be dealt evenly to ranks and micro-batches.
    """
    data, parts = run.data, world.size * run.data.accumulate
    if data.batch_size % parts:
        raise UserError(
            f"data.batch_size {data.batch_size}: must be a multiple of {parts}"
            f" ({world.size} ranks x {data.accumulate} micro-batches)"
        )
    own = data.shards is None or shards == find_shards(data.shards)
    manifest = read_manifest(shards)
    return LoaderSpec(
        shards=shards,
        ids=chosen_ids(data, manifest) if own else None,
        labeled_ids=labeled_ids(data, shards, manifest) if own else None,
        views=views,
        batch_size=data.batch_size // data.accumulate,
        seed=run.seed,
        device=str(world.device),
        num_threads=data.num_threads or cpu_share(),
        max_bad_fraction=data.max_bad_fraction,
    )


def pictured_batch(spec: LoaderSpec, manifest: Manifest, world: World) -> Batch:
    """The same few samples for every picture of the run, so that a person can compare them."""
    num_samples = manifest.num_samples if spec.ids is None else len(spec.ids)
    per_rank = max(1, min(NUM_PICTURED, num_samples // world.size))
    loader = make_loader(replace(spec, batch_size=per_rank * world.size), world.rank, world.size)
    try:
        return next(loader)
    finally:
        loader.close()
