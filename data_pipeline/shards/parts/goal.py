"""What packing makes of a source: a shard folder for each split. task_part.py and addition.py have other goals."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.bands.stored_bands import Bands
from eyespot.data_pipeline.shards.image_check import Examined
from eyespot.data_pipeline.shards.manifest import (
    MOST_QUARANTINED,
    ImageStats,
    Manifest,
    Masks,
    format_of,
    image_stats,
)
from eyespot.data_pipeline.shards.members.items import Item, Source, sampling_of
from eyespot.data_pipeline.shards.members.skipped import quarantined_beyond
from eyespot.data_pipeline.shards.outside.rows import Shared
from eyespot.data_pipeline.shards.pack_masks import notes_on_masks
from eyespot.data_pipeline.shards.packed_shard import PackedShard, added_up
from eyespot.data_pipeline.shards.paged.piece_writer import write_index
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

WORK = ".packing"
"""The folder of what is needed to go on, inside the destination."""
SPLITS = ("test", "train", "val")


class Start(NamedTuple):
    """Which items of a split are packed, and how what is written is numbered."""

    positions: range
    """In the split's shuffled order."""
    first_id: int = 0
    first_shard: int = 0
    one_in: int = 1
    """Of how many images one has its pixels summed (pixels/pixel_sums.py)."""


class Goal:
    """Packing a whole source into a new folder."""

    keeps_folder = True
    """Whether the destination stays where nothing is in it, and was there before."""
    shared: Shared | None = None
    """With others that pack the same source."""

    def has_begun(self, destination: Path) -> bool:
        """Whether something of ours lies there already, whatever else does."""
        return bool(manifest_folders(destination))

    def refuse(self, found: Source, options: dict[str, Any]) -> None:
        """Raises a UserError where it cannot be done with this source."""

    def finished(self, destination: Path, found: Source, plan: str) -> dict[str, Manifest] | None:
        """What there is where all is done already.

        Raises:
            UserError: something else lies there.
        """
        folders = manifest_folders(destination)
        if any(ShardFolder(folder).manifest.packing.get("plan") != plan for folder in folders):
            raise UserError(
                f"destination {destination}: holds shards of another source or other options; name another folder"
            )
        if len(folders) < len(found.splits):
            return None
        return {split: ShardFolder(destination / split).manifest for split in sorted(found.splits)}

    def adopt(self, found: Source) -> None:
        """Changes the items to what is to be packed, once it is known that they are not packed yet."""

    def start(self, split: str, order: Sequence[Item], options: dict[str, Any]) -> Start:
        """Which of a split's items, in their shuffled order, are packed."""
        return Start(range(len(order)), one_in=sampling_of(order))

    def screened(self, split: str, images: Iterator[Examined | str]) -> Iterator[Examined | str]:
        """The images that were examined, or why one is left out."""
        return images

    def commit(
        self, destination: Path, found: Source, parts: dict[str, list[PackedShard]], options: dict[str, Any]
    ) -> dict[str, Manifest]:
        """Makes what was packed count."""
        return commit(destination, found, parts, options)


def manifest_folders(destination: Path) -> list[Path]:
    """Of the destination and its splits those that are complete."""
    folders = [destination, *(destination / split for split in SPLITS)]
    return [folder for folder in folders if (folder / "manifest.json").exists()]


def commit(
    destination: Path, found: Source, parts: dict[str, list[PackedShard]], options: dict[str, Any]
) -> dict[str, Manifest]:
    """Writes the indexes, then the manifests, train's last: what a reader looks for first appears last.

    Raises:
        UserError: no image of a split could be packed.
    """
    manifests: dict[str, Manifest] = {}
    for split, done in sorted(parts.items()):
        manifest, rows, files = assembled(split, found, done, options)
        for name, data in files.items():
            (destination / split / name).parent.mkdir(exist_ok=True)
            atomic_files.write_bytes(destination / split / name, data)
        manifests[split] = write_index(destination / split, manifest, rows)
    for split, manifest in manifests.items():
        atomic_files.write_bytes(destination / split / "manifest.json", manifest.to_json().encode())
    return manifests


def bands_of(options: dict[str, Any]) -> Bands | None:
    """What a pack with these options makes of images; None = 8-bit RGB."""
    return Bands(count=options["bands"], bits=options["bits"]) if "bands" in options else None


def assembled(
    split: str, found: Source, done: list[PackedShard], options: dict[str, Any], stats: ImageStats | None = None
) -> tuple[Manifest, np.ndarray, dict[str, bytes]]:
    """The manifest of one split, which does not know its index yet; the rows of that; and the tables beside it.

    ``stats`` are those of more than what was packed; None = of that.

    Raises:
        UserError: no image of it could be packed.
    """
    rows, masks, frames, members = PackedShard.tables(done)
    bands = bands_of(options)
    quarantined = sorted((bad for part in done for bad in part.quarantined), key=lambda bad: bad["source"])
    if not len(rows):
        example = f"; {quarantined[0]['source']}: {quarantined[0]['reason']}" if quarantined else ""
        which = f" of {split}" if split else ""
        raise UserError(f"source {found.name}: not one image{which} could be packed{example}")
    files = {"masks.npy": atomic_files.npy_bytes(masks)} if len(masks) else {}
    files |= (tables := frames.files() if frames else {}) | members.files()
    counts = np.sum([part.mask_counts for part in done], 0).tolist()
    manifest = Manifest(
        name=found.name,
        num_samples=len(rows),
        num_labeled=int((rows["label"] >= 0).sum()),
        classes=found.classes,
        shards=[part.shard for part in done if part.shard],
        image_stats=stats
        or image_stats(
            frames.rows if frames else rows, *summed(done), done[0].one_in, peak=bands.peak if bands else 255
        ),
        index_sha256="",  # known when it is written
        quarantined=quarantined[:MOST_QUARANTINED],
        converted=dict(sorted(sum((Counter(part.converted) for part in done), Counter()).items())),
        packing={"split": split, **options, "skipped": found.skipped.total},
        skipped=found.skipped.listed() + quarantined_beyond(quarantined),
        notes=found.notes + (notes_on_masks(counts, options["mask_ignored"]) if len(masks) else []),
        masks=Masks.of(masks, counts, options["mask_ignored"]) if len(masks) else None,
        frames=frames.summary(tables) if frames else None,
        members=members.summary(),
        bands=bands,
        format=format_of(bands),
    )
    return manifest, rows, files


def summed(done: Sequence[PackedShard]) -> tuple[list[int], list[int]]:
    """Of some shards, the pixels' sums and those of their squares."""
    sums, squares = (reduce(added_up, [getattr(part, name) for part in done], []) for name in ("sums", "squares"))
    return sums, squares
