"""What a run learns from: its shards, which samples and labels of them, and how they become micro-batches."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Int64

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.bands.band_views import RGB, channels_of, only_of_rgb
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.blocks.open_blocks import NodeCache
from eyespot.data_pipeline.loading.cpu_share import cpu_share
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.loading.mixtures.chosen_ids import read_ids
from eyespot.data_pipeline.loading.mixtures.mixed_shards import MixedShards, find_shards
from eyespot.data_pipeline.loading.mixtures.source_bounds import is_paged
from eyespot.data_pipeline.loading.mixtures.source_mixing import source_mixing
from eyespot.data_pipeline.order.stream_state import check_lanes
from eyespot.data_pipeline.patience import PATIENCE_SECONDS
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.paged.file_sizes import MissingShards
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.distributed.rendezvous import restarted
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.memory_bank import SampleIds
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.run_record import RunRecord

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
    lane_frame: int
    """Samples that are dealt to the lanes: the micro-batch that the run began with."""

    @property
    def num_samples(self) -> int:
        """How many samples the run learns from."""
        return self.shards.manifest.num_samples if self.ids is None else len(self.ids)

    @property
    def sample_ids(self) -> SampleIds:
        """All samples that the run learns from, ascending."""
        return ascending(self.ids, self.shards)

    def check_objective(self, objective: Objective) -> None:
        """Whether images and labels are such as the method can learn from.

        Raises:
            UserError: they are not, see ``check_bands`` and ``check_labels``.
        """
        check_bands(self.run, objective, self.shards)
        self.check_labels(objective)

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
        count, num_unlabeled, highest = self._seen_labels()
        if highest < 0:
            field = "ids" if data.labeled_ids is None else "labeled_ids"
            raise UserError(f"data.{field}: {method} needs labels, and of the samples that it sees none has one")
        if needs == "all" and num_unlabeled:
            raise UserError(
                f"data.shards {shards}: {num_unlabeled} of {plural(count, 'image')} have no label;"
                " name the others in data.ids"
            )
        if objective.num_classes is not None and highest >= objective.num_classes:
            raise UserError(
                f"objective.num_classes {objective.num_classes}: {shards} has label {highest}; set it to"
                f" {max(len(manifest.classes), highest + 1)}"
            )

    def _seen_labels(self) -> tuple[int, int, int]:
        """How many samples the run learns from, of how many of these it sees no label, and the highest that it sees."""
        manifest = self.shards.manifest
        count = self.num_samples
        if self.labeled_ids is not None:
            seen = self.labeled_ids if self.ids is None else np.intersect1d(self.ids, self.labeled_ids)
            labels = self.shards.rows(seen)["label"]
        elif self.ids is not None:
            labels = self.shards.rows(self.ids)["label"]
        elif is_paged(self.shards):  # nobody reads all of them: what is read is held against these numbers
            return count, count - manifest.num_labeled, len(manifest.classes) - 1
        else:
            labels = self.shards.index["label"]
        return count, count - int((labels >= 0).sum()), int(labels.max(initial=-1))

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
            lanes=data.lanes,
            lane_frame=self.lane_frame,
            decode=data.decode,
            nvjpeg=data.nvjpeg,
            ready_mb=data.ready_mb,
            cache=node_cache(data),
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
        UserError: there are no shards or they are damaged; ``data.ids`` or ``data.labeled_ids`` is no list of their
            samples (``read_ids``) or, of the labels, names some that have none.
        Outage: the file system does not give them, or the run read them before and they are gone.
    """
    patience, asked = patience_seconds(run, world), run.data.read_patience_seconds
    if patience < asked != PATIENCE_SECONDS and world.rank == 0:
        log.warning(
            "data.read_patience_seconds %g: %g, for after --rank-timeout-seconds ranks give up", asked, patience
        )
    try:
        hashes, versions = world.local_rank == 0, began_with(run)
        if shards is None or not shards.is_named(run.data.shards) or versions not in ((), versions_of(shards)):
            shards = open_shards(run.data, hashes=hashes, patience_seconds=patience, versions=versions)
        shards.check()
    except MissingShards as error:
        if restarted():  # they were there: this node has lost its mount, and another may have it
            raise Outage(f"{error} (they were there when the run began)") from error
        raise
    ids, frame = chosen_ids(run.data, shards), lane_frame(run)
    if world.rank == 0:
        if isinstance(shards, MixedShards):
            log.info("%s", shards.in_words(ids))
        how = {"window": run.data.shuffle_window, "lanes": run.data.lanes, "frame": frame}
        for source, mixing in source_mixing(shards, run.data.batch_size, seed=run.seed, **how, ids=ids):
            if mixing.is_poor:
                log.warning("data.shards %s: %s", source.path, mixing)
    labeled = _labeled_ids(run.data, shards)
    return RunData(run=run, world=world, shards=shards, ids=ids, labeled_ids=labeled, lane_frame=frame)


def lane_frame(run: Run) -> int:
    """The samples that are dealt to the run's lanes: of the run that goes on, those that it began with.

    Raises:
        UserError: the lanes do not divide them.
    """
    frame, path = run.data.batch_size // run.data.accumulate, RunRecord.path(run.run_dir)
    if run.data.lanes > 1 and run.resume == "auto" and path.exists():
        frame = RunRecord.read(path).lane_frame or frame
    check_lanes(run.data.lanes, frame)
    return frame


def patience_seconds(run: Run, world: World) -> float:
    """For how long this rank's reads are tried again: while it waits, the others wait in an exchange, and give up."""
    asked = run.data.read_patience_seconds
    return asked if world.size == 1 else min(asked, 0.8 * run.rank_timeout_seconds)


def began_with(run: Run) -> tuple[str, ...]:
    """The sha256 of the manifest that a run goes on with, whatever was added to its shards since; empty = it begins.

    Of a mixture that of each source.
    """
    path = RunRecord.path(run.run_dir)
    return RunRecord.read(path).manifests if run.resume == "auto" and path.exists() else ()


def versions_of(shards: ShardFolder) -> tuple[str, ...]:
    """What ``began_with`` says of a run that began with these shards."""
    return tuple(source.manifest_sha256 for source in shards.sources)


def open_shards(
    data: DataConfig,
    *,
    hashes: bool = True,
    patience_seconds: float = PATIENCE_SECONDS,
    versions: Sequence[str] = (),
) -> ShardFolder:
    """The training shards, of the manifests ``versions`` where they have had these, else as they are now.

    Raises:
        UserError: none are given, or there are none.
        Outage: the file system does not give them.
    """
    if data.shards is None:
        raise UserError("data.shards: not given; add --data.shards FOLDER, made with: eyespot shards pack SRC FOLDER")
    return find_shards(data.shards, hashes=hashes, patience_seconds=patience_seconds, versions=versions)


def node_cache(data: DataConfig) -> NodeCache | None:
    """Where the ranks of a node share what they fetch; None = nowhere."""
    return None if data.cache_dir is None else NodeCache(folder=data.cache_dir, gb=data.cache_gb)


def chosen_ids(data: DataConfig, shards: ShardFolder) -> Int64[np.ndarray, " n"] | None:
    """The samples that ``data.ids`` names, of a mixture source after source, each at most its cap; None = all.

    Raises:
        UserError: see ``read_ids``.
    """
    named = None if data.ids is None else read_ids(f"data.ids {data.ids}", data.ids, shards)
    return shards.chosen(named)


def ascending(ids: Int64[np.ndarray, " n"] | None, shards: ShardFolder) -> SampleIds:
    """The chosen samples, or all there are, by id."""
    return range(shards.manifest.num_samples) if ids is None else torch.from_numpy(np.sort(ids))


def some_of(ids: SampleIds, places: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
    """The ids that stand at these places."""
    return places + ids.start if isinstance(ids, range) else ids.numpy()[places]


def _labeled_ids(data: DataConfig, shards: ShardFolder) -> Int64[np.ndarray, " n"] | None:
    if data.labeled_ids is None:
        return None
    field = f"data.labeled_ids {data.labeled_ids}"
    ids = read_ids(field, data.labeled_ids, shards)
    unlabeled = ids[shards.rows(ids)["label"] < 0]
    if len(unlabeled):
        raise UserError(
            f"{field}: {len(unlabeled)} of {plural(len(ids), 'sample')} have no label (the first: {unlabeled[0]})"
        )
    return ids


def normalized_views(views: ViewSpec, data: DataConfig, manifest: Manifest) -> ViewSpec:
    """The views with the mean and standard deviation that the run asks for.

    Raises:
        UserError: the method computes with colours and counts on its own; or it is of another number of channels.
    """
    check_colours(views, data)
    if data.mean is not None and data.std is not None:
        if len(data.mean) != (count := channels_of(manifest)):
            raise UserError(
                f"data.mean {data.mean}: {len(data.mean)} numbers, and images have {plural(count, 'channel')}"
            )
        return replace(views, mean=data.mean, std=data.std)
    if data.normalize == "imagenet" and (manifest.bands is None or views.fixed):
        return views
    return replace(views, mean=manifest.image_stats.mean, std=manifest.image_stats.std)


def check_bands(run: Run, objective: Objective, shards: ShardFolder) -> None:
    """Whether encoder, method and views can see images of so many bands.

    Raises:
        UserError: one cannot.
    """
    bands, count = shards.manifest.bands, channels_of(shards.manifest)
    if run.encoder.channels != count:
        raise UserError(
            f"encoder.channels {run.encoder.channels}: {shards.path} holds images of {bands or '8-bit RGB'};"
            f" set it to {count}"
        )
    if count == RGB:
        return
    method = type(objective).__name__
    if not objective.any_bands:
        raise UserError(
            f"{method} is made for red, green and blue, and {shards.path} holds images of {bands}; take mae,"
            " simclr or dino, which are of any bands"
        )
    for one in fields(run.objective):
        view = getattr(run.objective, one.name)
        if isinstance(view, RandomView) and (wrong := only_of_rgb(view)):
            flags = wrong.rpartition("; set ")
            settings = ", ".join(f"objective.{one.name}.{flag}" for flag in flags[2].split(", "))
            raise UserError(
                f"objective.{one.name}: of {bands}, which are no colours, it asks for {flags[0]}; set {settings}"
            )


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
