"""What a run learns from: its shards, which samples and labels of them, and how they become micro-batches."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.class_mixing import class_mixing
from eyespot.data_pipeline.loading.cpu_share import cpu_share
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.patience import PATIENCE_SECONDS
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.shard_folder import MissingShards, ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.distributed.rendezvous import restarted
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.objective import Objective

log = logging.getLogger("eyespot")

Opened = ShardFolder | None
"""Of a run's data, where somebody has opened them already."""


@dataclass(kw_only=True, slots=True, frozen=True)
class RunData:
    """The data of a run as this process sees it, opened and checked once: ``open_data`` makes it."""

    run: Run
    world: World
    shards: ShardFolder
    ids: Int64[np.ndarray, " n"] | None
    """The samples that ``data.ids`` names, in its order; None = all."""
    labeled_ids: Int64[np.ndarray, " n"] | None
    """The samples whose labels ``data.labeled_ids`` lets the run see; None = all that have one."""

    @property
    def sample_ids(self) -> Int[Tensor, " n"]:
        """All samples that the run learns from, ascending."""
        return ascending(self.ids, self.shards)

    def check_labels(self, objective: Objective) -> None:
        """Whether the run sees labels where its method needs them, and those it can tell apart.

        Raises:
            UserError: it sees none, too few, or others; or which it may see is said of a method that asks for none or
                all.
        """
        data, needs, method = self.run.data, self.run.objective.needs_labels(), type(objective).__name__
        manifest, shards = self.shards.manifest, self.shards.path
        check_which_labels(data, self.run.objective, method)
        if needs == "none":
            return
        if not manifest.num_labeled:
            raise UserError(f"data.shards {shards}: {method} needs labels and no image has one; pack class folders")
        labels = self._seen_labels()
        if labels.max() < 0:
            field = "ids" if data.labeled_ids is None else "labeled_ids"
            raise UserError(f"data.{field}: {method} needs labels, and of the samples that it sees none has one")
        if needs == "all" and labels.min() < 0:
            raise UserError(
                f"data.shards {shards}: {(labels < 0).sum()} of {plural(len(labels), 'image')} have no label;"
                " name the others in data.ids"
            )
        if objective.num_classes is not None and labels.max() >= objective.num_classes:
            raise UserError(
                f"objective.num_classes {objective.num_classes}: {shards} has label {labels.max()}; set it to"
                f" {max(len(manifest.classes), labels.max() + 1)}"
            )

    def _seen_labels(self) -> Int[np.ndarray, " n"]:
        """Of the samples that the run learns from."""
        labels = self.shards.index["label"]
        if self.labeled_ids is not None:
            labels, every = np.full_like(labels, -1), labels
            labels[self.labeled_ids] = every[self.labeled_ids]
        return labels if self.ids is None else labels[self.ids]

    def loader_spec(self, views: ViewSpec, shards: ShardFolder | None = None) -> LoaderSpec:
        """One micro-batch over all ranks, in the mean and standard deviation that the run asks for.

        Args:
            views: what to make of each image.
            shards: others than the run's own, which a monitor may look at: all their samples and labels are seen.

        Raises:
            UserError: the batch cannot be dealt evenly to ranks and micro-batches, or the method computes with colours
                and the run counts on a mean of its own.
        """
        data = self.run.data
        check_dealt(data, self.world.size)
        own = shards is None or shards is self.shards
        return LoaderSpec(
            shards=shards or self.shards,
            ids=self.ids if own else None,
            labeled_ids=self.labeled_ids if own else None,
            views=normalized_views(views, data, self.shards.manifest),
            batch_size=data.batch_size // data.accumulate,
            seed=self.run.seed,
            device=str(self.world.device),
            num_threads=data.num_threads or cpu_share(),
            max_bad_fraction=data.max_bad_fraction,
            patience_seconds=patience_seconds(self.run, self.world),
            shuffle_window=data.shuffle_window,
            decode=data.decode,
            nvjpeg=data.nvjpeg,
            ready_mb=data.ready_mb,
        )

    def training_spec(self, spec: LoaderSpec, objective: Objective) -> LoaderSpec:
        """That of the steps themselves: views may be bf16 in them, where autocast rounds what the encoder reads."""
        on_gpu = self.world.device.type == "cuda"
        return replace(spec, bf16=on_gpu and self.run.precision == "bf16" and objective.only_encodes)


def open_data(run: Run, world: World, shards: Opened = None) -> RunData:
    """Opens the run's data and checks what can be wrong with the files. All ranks call it, and agree on what it raises.

    Args:
        run: of whom it is.
        world: this process; the first of each node hashes the index for all of them.
        shards: where they are open already.

    Raises:
        UserError: there are no shards or they are damaged; ``data.ids`` or ``data.labeled_ids`` cannot be read, or
            names no samples, one twice, one that is not there or, of the labels, that has none.
        Outage: the file system does not give them, or the run read them before and they are gone.
    """
    patience, asked = patience_seconds(run, world), run.data.read_patience_seconds
    if patience < asked != PATIENCE_SECONDS and world.rank == 0:
        log.warning(
            "data.read_patience_seconds %g: %g, for after --rank-timeout-seconds ranks give up", asked, patience
        )
    try:
        if shards is None or shards.named != run.data.shards:
            shards = open_shards(run.data, hashes=world.local_rank == 0, patience_seconds=patience)
        shards.check()
    except MissingShards as error:
        if restarted():  # they were there: this node has lost its mount, and another may have it
            raise Outage(f"{error} (they were there when the run began)") from error
        raise
    ids = chosen_ids(run.data, shards)
    if world.rank == 0:
        mixing = class_mixing(shards, run.data.batch_size, seed=run.seed, window=run.data.shuffle_window, ids=ids)
        if mixing is not None and mixing.is_poor:
            log.warning("data.shards %s: %s", shards.path, mixing)
    return RunData(run=run, world=world, shards=shards, ids=ids, labeled_ids=_labeled_ids(run.data, shards))


def patience_seconds(run: Run, world: World) -> float:
    """For how long this rank's reads are tried again: while it waits, the others wait in an exchange, and give up."""
    asked = run.data.read_patience_seconds
    return asked if world.size == 1 else min(asked, 0.8 * run.rank_timeout_seconds)


def open_shards(data: DataConfig, *, hashes: bool = True, patience_seconds: float = PATIENCE_SECONDS) -> ShardFolder:
    """The training shards.

    Raises:
        UserError: none are given, or there are none.
        Outage: the file system does not give them.
    """
    if data.shards is None:
        raise UserError("data.shards: not given; add --data.shards FOLDER, made with: eyespot shards pack SRC FOLDER")
    return ShardFolder.find(data.shards, hashes=hashes, patience_seconds=patience_seconds)


def chosen_ids(data: DataConfig, shards: ShardFolder) -> Int64[np.ndarray, " n"] | None:
    """The samples that ``data.ids`` names; None = all.

    Raises:
        UserError: the file cannot be read, or names no samples, one twice, or one that is not there.
    """
    return None if data.ids is None else _read_ids(f"data.ids {data.ids}", data.ids, shards.manifest)


def ascending(ids: Int64[np.ndarray, " n"] | None, shards: ShardFolder) -> Int[Tensor, " n"]:
    """The chosen samples, or all there are, by id."""
    return torch.arange(shards.manifest.num_samples) if ids is None else torch.from_numpy(np.sort(ids))


def _labeled_ids(data: DataConfig, shards: ShardFolder) -> Int64[np.ndarray, " n"] | None:
    if data.labeled_ids is None:
        return None
    field = f"data.labeled_ids {data.labeled_ids}"
    ids = _read_ids(field, data.labeled_ids, shards.manifest)
    unlabeled = ids[shards.index["label"][ids] < 0]
    if len(unlabeled):
        raise UserError(
            f"{field}: {len(unlabeled)} of {plural(len(ids), 'sample')} have no label (the first: {unlabeled[0]})"
        )
    return ids


def _read_ids(field: str, path: Path, manifest: Manifest) -> Int64[np.ndarray, " n"]:
    try:
        ids = np.array([int(line) for line in foreign_json.read_bytes(path).decode().split()], np.int64)
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{field}: {error.why}; write one id a line") from error
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{field}: cannot be read as one id a line ({error})") from error
    if not len(ids) or len(np.unique(ids)) < len(ids) or ids.min() < 0 or ids.max() >= manifest.num_samples:
        raise UserError(f"{field}: must name different samples from 0 to {manifest.num_samples - 1}, at least one")
    return ids


def normalized_views(views: ViewSpec, data: DataConfig, manifest: Manifest) -> ViewSpec:
    """The views with the mean and standard deviation that the run asks for.

    Raises:
        UserError: the method computes with colours and counts on its own.
    """
    check_colours(views, data)
    if data.mean is not None and data.std is not None:
        return replace(views, mean=data.mean, std=data.std)
    if data.normalize == "imagenet":
        return views
    return replace(views, mean=manifest.image_stats.mean, std=manifest.image_stats.std)


def check_colours(views: ViewSpec, data: DataConfig) -> None:
    """Raises a UserError where the method computes with colours, counts on its own mean, and the run has another."""
    if views.fixed and (data.mean is not None or data.normalize != "imagenet"):
        asked = "data.normalize 'dataset'" if data.mean is None else f"data.mean {data.mean}"
        raise UserError(
            f"{asked}: this method computes with colours; leave data.normalize at imagenet, data.mean unset"
        )


def check_dealt(data: DataConfig, num_ranks: int) -> None:
    """Raises a UserError where the batch cannot be dealt evenly to ranks and micro-batches."""
    if data.batch_size % (parts := num_ranks * data.accumulate):
        nearest = parts * max(1, round(data.batch_size / parts))
        raise UserError(
            f"data.batch_size {data.batch_size}: must be a multiple of {parts}"
            f" ({plural(num_ranks, 'rank')} x {plural(data.accumulate, 'micro-batch')}), for instance {nearest}"
        )


def check_which_labels(data: DataConfig, objective: Objective.Config, method: str) -> None:
    """Raises a UserError where the run may see some of the labels, and its method asks for none or all."""
    needs = objective.needs_labels()
    if data.labeled_ids is not None and needs != "some":
        instead = "leave it out" if needs == "none" else "name them in data.ids"
        raise UserError(f"data.labeled_ids {data.labeled_ids}: {method} learns from {needs} of the labels; {instead}")


def pictured_batch(spec: LoaderSpec, world: World) -> Batch:
    """The same few samples for every picture of the run, so that a person can compare them."""
    num_samples = spec.shards.manifest.num_samples if spec.ids is None else len(spec.ids)
    per_rank = max(1, min(NUM_PICTURED, num_samples // world.size))
    loader = make_loader(replace(spec, batch_size=per_rank * world.size), world.rank, world.size)
    try:
        return next(loader)
    finally:
        loader.close()
