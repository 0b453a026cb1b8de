"""The commands of ``eyespot shards`` besides packing and checking: info, show, merge, add; and one task's packing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from annotated_types import Ge

from eyespot.cluster.arguments import parse
from eyespot.cluster.clip_shards import remarks, show_frames, summary
from eyespot.cluster.next_steps import after_packing, channels_flag, say_next
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.loading.bands.band_views import channels_of
from eyespot.data_pipeline.loading.mixtures.mix_summary import mix_summary
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience, is_outage
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.parts.merge import THREADS
from eyespot.data_pipeline.shards.parts.task_part import read_record
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import how_to_shard
from eyespot.data_pipeline.stores.location import Location, check_on_disk, location_of
from eyespot.data_pipeline.terminal import brief, one_line, plural

Folder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


@dataclass(kw_only=True, slots=True)
class Show:
    """Write a PNG with the views that a recipe makes, so that you can see its augmentation; or the frames of videos.

    With a recipe, one row per image: its middle as it is, then the recipe's views of it in the first three epochs of a
    run. They are exactly those that a run with the recipe's seed trains on; captions are printed. Without one, a row of
    frames for each of the first samples, and for each camera, where samples have frames.

    For example:

    eyespot shards show data/photos --recipe mae_vitb16_in1k --out views.png

    eyespot shards show data/films
    """

    folder: Folder
    """A shard folder, or a folder with train/ inside."""
    recipe: str | None = None
    """A name from eyespot recipes, or package.module:function."""
    out: Path = Path("views.png")
    """Where to write; by default into the current folder."""
    samples: Annotated[int, Ge(1)] = 8
    """How many images, the first that a run sees."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True)
class Info:
    """Show what a shard folder holds: counts, sizes in pixels and MB, statistics of colours, classes.

    For example:

    eyespot shards info data/photos
    """

    folder: Folder
    """A shard folder, or a folder of them (train, test); or a mixture, mix.toml or a:0.7,b:0.3."""


def info(argv: list[str]) -> int:
    """Runs ``eyespot shards info`` and returns the exit code."""
    asked, refused, said = parse(Info, argv, "eyespot shards info"), list[str](), list[str]()
    if lines := mix_summary(asked.folder):
        print("\n".join(lines))
        return ExitCode.DONE
    folders = _folders(place := location_of(asked.folder), refused)
    for folder in folders:
        shards = ShardFolder(folder)
        manifest = shards.manifest
        more = remarks(manifest)
        print("\n".join([summary(folder, manifest), *(more if more != said else [])]))
        said = more
        for line in _class_lines(shards):
            print(line)
    for line in refused:
        print(one_line(line))
    first = ShardFolder(folders[0]).manifest
    after_packing(place, first.name, channels_of(first))
    return ExitCode.DONE


def _class_lines(shards: ShardFolder) -> list[str]:
    """The classes, with their images where these are counted in a moment."""
    names = shards.manifest.classes
    if not names:
        return []
    if shards.manifest.pieces is not None:  # of a billion samples 28 GB would be read
        lines = ["  classes      (their images are not counted: the index is in pieces)"]
        return lines + [one_line(f"    {name}") for name in names]
    labels = shards.index["label"]
    counts = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
    lines = ["  classes      with their images:"]
    return lines + [one_line(f"    {count:>8,}  {name}") for name, count in zip(names, counts, strict=True)]


def _folders(place: Location, refused: list[str]) -> Sequence[Location]:
    """Where shards lie.

    Raises:
        UserError: nowhere.
    """
    from eyespot.data_pipeline.shards.remote.verify import folders_in_store
    from eyespot.data_pipeline.shards.verify import shard_folders

    if isinstance(place, Path):
        if not (folders := shard_folders(place, refused)):
            raise UserError(f"shards {place}: none there; {how_to_shard(place)}")
        return folders
    patience = Patience(PATIENCE_SECONDS)
    if not (found := patience.read(place, lambda: folders_in_store(place), is_outage)):
        raise UserError(f"shards {place}: none there; upload what eyespot shards pack or index made")
    return found


def show(argv: list[str]) -> int:
    """Runs ``eyespot shards show`` and returns the exit code."""
    asked = parse(Show, argv, "eyespot shards show")
    shards = find_shards(asked.folder)  # before torch is imported, which takes seconds

    if asked.recipe is None:
        return show_frames(shards, asked.out, asked.samples)

    with working("loading torch"):
        from eyespot.pretrain.images.image_grid import shown_bands
        from eyespot.pretrain.loop.view_sheet import NUM_EPOCHS, draw_views, shown_captions
        from eyespot.pretrain.recipe_lookup import make_run

    run = make_run(asked.recipe)
    images, views = draw_views(run, shards, asked.out, asked.samples)
    print(
        f"{asked.out.resolve()}: {plural(images, 'image')}, a row each: its middle,"
        f" then {plural(views, 'view')} in each of {NUM_EPOCHS} epochs"
    )
    if shards.manifest.bands and (which := shown_bands(shards.manifest.bands.count)):
        print(f"  shown are {which}")
    for row, captions in enumerate(shown_captions(run, shards, asked.samples), 1):
        print(one_line(brief(f"  row {row:<3} {' | '.join(captions) or 'no caption'}")))
    train = ["pretrain", asked.recipe, "--data.shards", str(shards.named)]
    say_next(([*train, *channels_flag(channels_of(shards.manifest)), "--run-dir", "runs/first"], "trains on them"))
    return ExitCode.DONE


@dataclass(kw_only=True, slots=True)
class Merge:
    """Make one shard folder of what the tasks of eyespot shards pack --task have packed.

    The result is, byte for byte, what one eyespot shards pack of the whole source writes. All tasks must be done, of
    the same source and options; one that is missing is named. Shards are renamed where a task could foresee them, else
    copied: behind an image that was left out, ids are others. That needs the disk space of what is copied. Killed, it
    goes on when it is called again.

    For example:

    eyespot shards merge data/in1k
    """

    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """What the tasks called DST."""
    workers: Annotated[int, Ge(1)] = THREADS
    """Threads that copy; does not change the result."""

    def __post_init__(self) -> None:
        check_ranges(self)


def merge(argv: list[str]) -> tuple[Path, dict[str, Manifest]]:
    """Runs ``eyespot shards merge``; where the shards are, and their manifests."""
    from eyespot.data_pipeline.shards.parts.merge import merge as merge_parts

    asked = parse(Merge, argv, "eyespot shards merge")
    check_on_disk(asked.destination)
    merged = merge_parts(asked.destination, asked.workers)
    if merged.num_copied or merged.num_renamed:
        copied = f", {merged.bytes_copied / 1e6:,.1f} MB" if merged.num_copied else ""
        print(
            f"{asked.destination}: {plural(merged.num_renamed, 'shard')} renamed, {merged.num_copied:,} copied{copied}"
        )
    return asked.destination, merged.manifests


def pack_share(task: str, source: str | Callable[[Path], Source], destination: Path, **options: Any) -> int:
    """Packs one task's share.

    Args:
        task: as ``--task`` says it.
        source: as ``pack`` takes it.
        destination: the shard folder of all tasks.
        options: of ``pack``.
    """
    from eyespot.data_pipeline.shards.pack import pack
    from eyespot.data_pipeline.shards.parts.task import Task
    from eyespot.data_pipeline.shards.parts.task_part import Share

    check_on_disk(destination)
    share = Share(destination, Task.parse(task))
    pack(source, share.folder, goal=share, **options)
    if share.folder.exists():  # else the parts are merged already
        splits = read_record(share.folder).splits
        items = sum(stretch.stop - stretch.first for stretch in splits.values())
        print(f"{destination}: task {share.task} is done, {items:,} of the source's images")
    say_next((["shards", "merge", destination], "once all tasks are done"))
    return ExitCode.DONE


def add_images(
    source: str | Callable[[Path], Source], destination: Path, **options: Any
) -> tuple[Path, dict[str, Manifest]]:
    """Adds images to a shard folder; where it is, and its new manifests.

    Args:
        source: as ``pack`` takes it.
        destination: the shard folder, or that of its splits.
        options: of ``pack``; None for ``resize`` = as the folder was packed.
    """
    from eyespot.data_pipeline.shards.pack import pack
    from eyespot.data_pipeline.shards.parts.addition import Addition

    check_on_disk(destination)
    addition = Addition(destination)
    first = next(iter(addition.base.values())).manifest
    packing = first.packing
    if options["reading"].bands is None:
        options["reading"] = replace(options["reading"], bands=first.bands)
    for name in ("resize", "max_samples", "max_bytes"):
        if options[name] is None and isinstance(packing.get(name), int):
            options[name] = packing[name]
    manifests = pack(source, addition.folder, goal=addition, **{k: v for k, v in options.items() if v is not None})
    for split, manifest in manifests.items():
        last = manifest.packing["added"][-1]
        there = f"; {plural(last['duplicates'], 'image')} left out that lay there already" if last["duplicates"] else ""
        added = f"{plural(last['num_samples'], 'image')} added, from id {last['first_id']:,} on{there}"
        was_there = addition.base[split].manifest == manifest
        print(f"{destination / split}: {'these images were added before' if was_there else added}")
    return destination, manifests
