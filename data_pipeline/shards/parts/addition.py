"""Adds images to a shard folder, as shards behind those that are there: what was there keeps its ids, names and bytes.

    SHARDS/manifest.json                 the newest
    SHARDS/manifest-<12 digits>.json     each that the folder has had since something was first added, never changed
    SHARDS/index.npy                     grows at its end, so an older manifest describes its first rows

A run goes on with the manifest that it began with, which ``run.json`` names. While images are added, SHARDS/.adding
holds the new shards, from which a killed call goes on. The order of writing makes every moment a whole folder: tars,
then tables, then manifest.json, whose rename is what adds.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import Examined
from eyespot.data_pipeline.shards.manifest import (
    MASK_DTYPE,
    MOST_QUARANTINED,
    ImageStats,
    Manifest,
    Masks,
    Members,
    image_stats,
    num_summed,
)
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.items import Item, Source, are_plain, have_frames, relabelled
from eyespot.data_pipeline.shards.members.member_tables import MemberTables
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.packed_shard import PackedShard, added_up
from eyespot.data_pipeline.shards.paged.manifest_file import version_file
from eyespot.data_pipeline.shards.paged.piece_writer import check_count
from eyespot.data_pipeline.shards.parts.goal import (
    SPLITS,
    WORK,
    Goal,
    Start,
    assembled,
    bands_of,
    manifest_folders,
    summed,
)
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

ADDING = ".adding"
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES})


class Addition(Goal):
    """A source's images as more shards of a folder. What lies there already, byte by byte, is left out and named.

    Args:
        root: the shard folder, or that of its splits.

    Raises:
        UserError: nothing can be added to it.
    """

    keeps_folder = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._plan, self.base = "", dict[str, ShardFolder]()
        self._open()

    def _open(self) -> None:
        folders = manifest_folders(self.root)
        if not folders:
            raise UserError(
                f"shards {self.root}: no shards there to add to; pack them first: eyespot shards pack SRC {self.root}"
            )
        self.base = {"" if folder == self.root else folder.name: ShardFolder(folder) for folder in folders}
        for shards in self.base.values():
            _check_ours(shards)

    @property
    def folder(self) -> Path:
        """Where the new shards are written first."""
        return self.root / ADDING

    def has_begun(self, destination: Path) -> bool:
        """The folder is ours by its name."""
        return True

    def refuse(self, found: Source, options: dict[str, Any]) -> None:
        """Raises a UserError where the source does not go with the shards."""
        self._plan = options["plan"]
        self._open()  # again: now that we hold the lock, nobody adds to them
        above = [self.root.parent] if self.root.name in SPLITS else []
        inside = [folder_of(shards) for shards in self.base.values() if folder_of(shards) != self.root]
        if others := [folder for folder in (*above, *inside) if (folder / ADDING).is_dir()]:
            raise UserError(f"shards {self.root}: images are being added to {others[0]}; finish that first")
        if found.prepare is not None or any(map(have_frames, found.splits.values())):
            raise UserError(f"source {found.name}: samples of many frames cannot be added; pack all of them together")
        for shards in self.base.values():
            if (ours := shards.manifest.bands) != (asked := bands_of(options)):
                why = (
                    f"shards {shards.path}: hold images of {ours or '8-bit RGB'}, and {asked or '8-bit RGB'} are added"
                )
                raise UserError(f"{why}; give --bands and --bits as the shards have them, or leave both out")
        if odd := sorted(found.splits.keys() - self.base.keys()):
            there = ", ".join(sorted(filter(None, self.base))) or "no splits"
            which = "it has no splits; name one of those" if odd == [""] else f"it has {', '.join(odd)}"
            raise UserError(f"source {found.name}: {which}, and {self.root} has {there}")
        for split, items in found.splits.items():
            masks = self.base[split].manifest.masks
            if masks is None or masks.ignored == options.get("mask_ignored", masks.ignored) or are_plain(items):
                continue
            if any(item.has_masks for item in items):
                raise UserError(
                    f"mask_ignored {options['mask_ignored']}: the masks in {self.base[split].path} ignore"
                    f" {masks.ignored}; say --mask-ignored {masks.ignored}"
                )

    def finished(self, destination: Path, found: Source, plan: str) -> dict[str, Manifest] | None:
        """The manifests, where the same source with the same options was added before."""
        if all(_has(self.base[split].manifest, plan) for split in found.splits):
            _empty(destination)
            return {split: self.base[split].manifest for split in sorted(found.splits)}
        return None

    def adopt(self, found: Source) -> None:
        """Gives the items the labels that their classes have, or will have, in the folder: new ones follow the old."""
        now = {split: shards.manifest_sha256 for split, shards in sorted(self.base.items())}
        began = self.folder / WORK / "base"
        if began.exists() and not any(_has(self.base[split].manifest, self._plan) for split in found.splits):
            with suppress(foreign_json.ForeignJsonError):
                if foreign_json.read(began, dict) != now:
                    raise UserError(
                        f"shards {self.root}: were changed since this addition began; delete what it has packed,"
                        f" and add again: rm -r {self.folder}"
                    )
        atomic_files.write_bytes(began, json.dumps(now).encode())
        classes = list(dict.fromkeys([*_known_classes(self.base), *found.classes]))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [numbers[name] for name in found.classes]
        for split, items in found.splits.items():
            found.splits[split] = relabelled(items, labels)
        found.classes = classes

    def start(self, split: str, order: Sequence[Item], options: dict[str, Any]) -> Start:
        """All of it, numbered on from what is there."""
        base = self.base[split].manifest
        some = range(0) if _has(base, self._plan) else range(len(order))  # killed between two splits
        return Start(some, base.num_samples, len(base.shards), base.image_stats.one_in)

    def screened(self, split: str, images: Iterator[Examined | str]) -> Iterator[Examined | str]:
        """Leaves out the images whose bytes lie there already."""
        there = _Bytes(self.base[split])
        for image in images:
            same = None if isinstance(image, str) else there.find(image)
            yield image if same is None else f"{DUPLICATE} {same}"

    def commit(
        self, destination: Path, found: Source, parts: dict[str, list[PackedShard]], options: dict[str, Any]
    ) -> dict[str, Manifest]:
        """Brings the shards to their places and writes the manifests, train's last.

        Raises:
            UserError: there is nothing new.
        """
        added: dict[str, tuple[Manifest, dict[str, bytes]]] = {}
        for split, done in sorted(parts.items()):
            if _has(self.base[split].manifest, self._plan):
                continue
            if any(len(part.rows) for part in done):
                added[split] = joined(self.base[split], split, found, done, options)
        if not added and not any(_has(shards.manifest, self._plan) for shards in self.base.values()):
            bad = [bad for done in parts.values() for part in done for bad in part.quarantined]
            example = f"; {bad[0]['source']}: {bad[0]['reason']}" if bad else ""
            raise UserError(f"source {found.name}: holds nothing new for {self.root}{example}")
        for split in added:
            for part in parts[split]:
                if part.shard is not None:
                    tar = destination / split / part.shard.tar
                    for path in (tar.with_suffix(".idx"), tar):
                        _place(path, self.root / split / path.name)
        for split, (manifest, files) in added.items():
            _write(self.base[split], manifest, files)
        manifests = {split: ShardFolder(shards.path).manifest for split, shards in self.base.items()}
        _empty(destination)
        return {split: manifests[split] for split in sorted(found.splits)}


DUPLICATE = "there already: the same bytes as sample"


def _empty(destination: Path) -> None:
    """Takes away what has its place now."""
    for path in destination.iterdir():
        if path.name != WORK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _known_classes(base: dict[str, ShardFolder]) -> list[str]:
    """Of all splits; one may have been added to alone.

    Raises:
        UserError: one number stands for different classes.
    """
    lists = sorted((shards.manifest.classes for shards in base.values()), key=len)
    for shards in base.values():
        classes = shards.manifest.classes
        if classes != lists[-1][: len(classes)]:
            raise UserError(
                f"shards {shards.path}: its classes are numbered otherwise than the other splits'; add to each"
            )
    return lists[-1]


def folder_of(shards: ShardFolder) -> Path:
    """Where they lie; in no object store, as nothing is added there."""
    return Path(str(shards.path))


def _has(manifest: Manifest, plan: str) -> bool:
    """Whether this was added."""
    added = manifest.packing.get("added")
    return isinstance(added, list) and any(isinstance(one, dict) and one.get("plan") == plan for one in added)


def _check_ours(shards: ShardFolder) -> None:
    """Raises a UserError where new shards cannot follow those that are there."""
    manifest = shards.manifest
    if manifest.pieces is not None:
        raise UserError(
            f"shards {shards.path}: are of format 2, as millions of images are, and none can be added; pack new ones"
            f" into a folder of their own, and learn from both: --data.shards {shards.path}:0.9,MORE:0.1"
        )
    if manifest.frames is not None:
        raise UserError(f"shards {shards.path}: hold samples of many frames, and none can be added; pack all together")
    names = [f"shard-{number:06d}.tar" for number in range(len(manifest.shards))]
    if manifest.reading is not None or [shard.tar for shard in manifest.shards] != names:
        raise UserError(
            f"shards {shards.path}: were not written by eyespot shards pack; put the new tars beside them and make the"
            f" index anew: eyespot shards index {shards.path}"
        )
    _ = shards.index


def joined(
    base: ShardFolder, split: str, found: Source, done: list[PackedShard], options: dict[str, Any]
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of a folder and of what was packed to be added, and the tables of both.

    Args:
        base: the folder.
        split: which of the source's.
        found: the source.
        done: its shards.
        options: of packing them.
    """
    rows, masks, _, members = PackedShard.tables(done)
    index = np.concatenate([base.index, rows])
    stats = _stats(base, done, index)
    old, (more, *_) = base.manifest, assembled(split, found, done, options, stats)
    check_count(folder_of(base), len(index))
    files = {"index.npy": atomic_files.npy_bytes(index)}
    told = None
    if old.masks or len(masks):
        both = [base.masks if old.masks else np.zeros(old.num_samples, MASK_DTYPE)]
        both.append(masks if len(masks) else np.zeros(len(rows), MASK_DTYPE))
        counts = np.zeros(256, np.int64)
        for one in (old.masks, more.masks):
            counts[: len(one.pixels) if one else 0] += np.array(one.pixels if one else [], np.int64)
        ignored = old.masks.ignored if old.masks else options["mask_ignored"]
        told = Masks.of(table := np.concatenate(both), counts.tolist(), ignored)
        files["masks.npy"] = atomic_files.npy_bytes(table)
    tables = {extension: base.member(extension) for extension in old.members}
    left_out = {extension: one.left_out for extension, one in old.members.items()}
    before = MemberTables(num_samples=old.num_samples, rows=tables, left_out=left_out)
    beside = MemberTables.joined([before, members])
    files |= beside.files()
    quarantined = [*old.quarantined, *more.quarantined]
    skipped = Tally.of(replace(one, examples=list(one.examples)) for one in old.skipped)
    skipped.add_all(Tally.of(more.skipped))
    manifest = replace(
        old,
        num_samples=len(index),
        num_labeled=old.num_labeled + more.num_labeled,
        classes=found.classes,
        shards=[*old.shards, *more.shards],
        image_stats=stats,
        index_sha256=hashlib.sha256(files["index.npy"]).hexdigest(),
        quarantined=quarantined[:MOST_QUARANTINED],
        converted=dict(sorted((Counter(old.converted) + Counter(more.converted)).items())),
        packing={**old.packing, "added": [*old.packing.get("added", []), _entry(base, more, done, options)]},
        masks=told,
        skipped=skipped.listed(),
        notes=[*old.notes, *(note for note in more.notes if note not in old.notes)],
        members={name: _with_earlier(one, old.members.get(name)) for name, one in beside.summary().items()},
    )
    return manifest, files


def _entry(base: ShardFolder, more: Manifest, done: list[PackedShard], options: dict[str, Any]) -> dict[str, Any]:
    """What the manifest tells of an addition; ``base`` is the sha256 of the manifest before it."""
    duplicates = sum(bad["reason"].startswith(DUPLICATE) for part in done for bad in part.quarantined)
    counts = {
        "base": base.manifest_sha256,
        "first_id": base.manifest.num_samples,
        "num_samples": more.num_samples,
        "duplicates": duplicates,
    }
    return {**{name: value for name, value in options.items() if value is not None}, **counts}


def _with_earlier(told: Members, earlier: Members | None) -> Members:
    """Counts those too that an earlier manifest only counted."""
    unnamed = earlier.num_left_out - len(earlier.left_out) if earlier else 0
    return replace(told, num_left_out=told.num_left_out + unnamed)


def _stats(base: ShardFolder, done: list[PackedShard], index: np.ndarray) -> ImageStats:
    """Of all images: the old ones' sums are what mean and deviation tell, to the last digit of a float."""
    stats, bands = base.manifest.image_stats, base.manifest.bands
    peak = bands.peak if bands else 255
    means = [mean * peak for mean in stats.mean]
    num_pixels = num_summed(base.index, stats.one_in)
    sums = [round(mean * num_pixels) for mean in means]
    squares = [round(((std * peak) ** 2 + mean**2) * num_pixels) for std, mean in zip(stats.std, means, strict=True)]
    both = (added_up(ours, theirs) for ours, theirs in zip((sums, squares), summed(done), strict=True))
    return image_stats(index, *both, one_in=stats.one_in, peak=peak)


class _Bytes:
    """The images of a folder, to be found by their bytes."""

    def __init__(self, shards: ShardFolder) -> None:
        self._shards = shards
        keys = shards.index["crc32"].astype(np.uint64) << np.uint64(32) | shards.index["size"]
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, image: Examined) -> int | None:
        """The first sample that has the same bytes."""
        key = np.uint64(image.crc32 << 32 | len(image.data))
        first, stop = (int(np.searchsorted(self._keys, key, side=side)) for side in ("left", "right"))
        for sample in self._order[first:stop].tolist():
            row = self._shards.index[sample]
            place = Place(str(self._shards.tar_path(int(row["tar"]))), int(row["offset"]), int(row["size"]))
            if place.read() == image.data:
                return sample
        return None


def _place(path: Path, target: Path) -> None:
    """Gives a file a second name; where files can have only one, it moves."""
    if target.exists() and path.exists() and target.samefile(path):
        return
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.replace(temporary)
    atomic_files.commit(temporary, target)


def _write(base: ShardFolder, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Writes the tables, which say of the old samples what they did, and then the manifest."""
    folder = folder_of(base)
    if ShardFolder(folder).manifest_sha256 != base.manifest_sha256:  # where the file system knows no locks
        raise UserError(f"shards {folder}: were changed while this was added; add it again")
    old = folder / version_file(base.manifest_sha256)
    if not old.exists():
        atomic_files.write_bytes(old, (folder / "manifest.json").read_bytes())
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        atomic_files.write_bytes(folder / name, data)
    content = manifest.to_json().encode()
    atomic_files.write_bytes(folder / version_file(hashlib.sha256(content).hexdigest()), content)
    atomic_files.write_bytes(folder / "manifest.json", content)
