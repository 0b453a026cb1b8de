"""Packs images into shards: plain WebDataset tars, their indexes, one manifest. See manifest.py for what stands where.

Same source and options, same bytes, whatever the number of workers. While packing, DESTINATION/.packing keeps one
small file per finished shard, from which a killed pack goes on; the manifests are written last, so that a folder
with a manifest is complete.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from eyespot.data_pipeline import atomic_files, file_locks
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS, Examined
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS, examine_items
from eyespot.data_pipeline.shards.manifest import IGNORED, Manifest, Reading
from eyespot.data_pipeline.shards.members.caption_file import add_captions, caption_options
from eyespot.data_pipeline.shards.members.footage import of_same_streams
from eyespot.data_pipeline.shards.members.items import Item, Source, are_plain, hold_out, shuffled, taken
from eyespot.data_pipeline.shards.outside.fetching import done_with, in_reach
from eyespot.data_pipeline.shards.pack_masks import add_masks
from eyespot.data_pipeline.shards.packed_shard import PackedShard, sha256
from eyespot.data_pipeline.shards.parts.goal import SPLITS, WORK, Goal, bands_of
from eyespot.data_pipeline.shards.shard_writer import ShardWriter
from eyespot.data_pipeline.shards.sources import DOWNLOADS, open_source
from eyespot.data_pipeline.stores.location import check_on_disk


def pack(
    source: str | Callable[[Path], Source],
    destination: Path,
    *,
    masks: Path | None = None,
    mask_ignored: int = IGNORED,
    captions: Path | None = None,
    max_samples: int = 10_000,
    max_bytes: int = 500_000_000,
    resize: int | None = None,
    max_pixels: int = MAX_PIXELS,
    holdout: float | None = None,
    workers: int = NUM_WORKERS,
    seed: int = 0,
    downloads: Path = DOWNLOADS,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    columns: Mapping[str, str] | None = None,
    goal: Goal | None = None,
) -> dict[str, Manifest]:
    """Writes a source as shards, shuffled; goes on where an earlier, killed call with the same arguments stopped.

    Args:
        source: a name or path, see ``sources.open_source``; or a function that makes one, given an empty folder to use.
        destination: a new or empty folder. A source with splits is written as destination/train and destination/test.
        masks: a folder with the segmentation mask of each image, see pack_masks.py; those without are quarantined.
        mask_ignored: the class number of pixels that say nothing.
        captions: a file with those of the images, see members/caption_file.py.
        max_samples, max_bytes: of one tar, at most (a single larger sample is written nevertheless).
        resize: shrink images so that their short side has this many pixels.
        max_pixels: a larger image is quarantined.
        holdout: share of each class that is held out as test, 0..1; for a source without splits.
        workers, seed: processes that read and decode; of the shuffle and the holdout.
        downloads: where torchvision's data sets are kept.
        reading, columns: how to understand what is not clear; of tables: {"image": "img", "label": "fine_label"}.
        goal: what to make of it, see parts/; None = all of it, as a folder of its own.

    Returns:
        The manifest of each split; the only key is "" where there are no splits. None of a share (parts/task_part.py).

    Raises:
        UserError: the source holds nothing to pack, the destination cannot be written, lies in a store or holds
            something else.
    """
    check_on_disk(destination)
    options = {"max_samples": max_samples, "max_bytes": max_bytes, "resize": resize, "holdout": holdout, "seed": seed}
    _check({**options, "max_pixels": max_pixels, "workers": workers}, mask_ignored)
    options |= _unusual(max_pixels, reading)
    goal = goal or Goal()
    with _os_errors(destination), _locked(destination, goal) as work:
        how = downloads, reading, columns, goal.shared
        found = source(work) if callable(source) else open_source(source, work, *how)
        found.splits = of_same_streams(found.splits)
        options |= found.options | _mask_options(found, masks, mask_ignored) | _caption_options(found, captions, work)
        found = _with_holdout(found, holdout, seed)
        options = {"source": found.name, **options, "plan": _plan(found, options)}
        goal.refuse(found, options)
        if (manifests := goal.finished(destination, found, options["plan"])) is None:
            manifests = _pack_found(found, destination, work, options, workers, goal)
        shutil.rmtree(work)
    return manifests


# ------------------------------------------------------------------------------------------------ before


def _unusual(max_pixels: int, reading: Reading) -> dict[str, Any]:
    """What stands in a manifest only where it was asked for, so that those from before stay as they are."""
    found: dict[str, Any] = {"max_pixels": max_pixels} if max_pixels != MAX_PIXELS else {}
    return found | ({"bands": reading.bands.count, "bits": reading.bands.bits} if reading.bands else {})


def _check(options: dict[str, Any], mask_ignored: int) -> None:
    smallest = {"max_samples": 1, "max_bytes": 1, "resize": 1, "max_pixels": 1, "workers": 1, "seed": 0}
    for name, least in smallest.items():
        value = options[name]
        if value is not None and value < least:
            raise UserError(f"{name} {value}: must be {least} or more")
    if not 0 <= mask_ignored <= 255:
        raise UserError(f"mask_ignored {mask_ignored}: must lie in 0..255, as the values of a mask do")
    if options["holdout"] is not None and not 0 < options["holdout"] < 1:
        raise UserError(f"holdout {options['holdout']}: must lie between 0 and 1, as in 0.2")


def _mask_options(found: Source, folder: Path | None, ignored: int) -> dict[str, Any]:
    """What to note of masks; those of a folder are named to the items."""
    if folder is not None:
        add_masks(found, folder)
        return {"masks": folder.resolve().name, "mask_ignored": ignored}
    unknown = [items for items in found.splits.values() if not are_plain(items)]
    has_masks = any(item.has_masks for items in unknown for item in items)
    return {"mask_ignored": ignored} if has_masks else {}


def _caption_options(found: Source, path: Path | None, work: Path) -> dict[str, Any]:
    """What to note of a file of captions, which are named to the items, or will be once these are known."""
    if path is None:
        return {}
    options, prepare = caption_options(path), found.prepare
    if prepare is None:
        add_captions(found, path, work)
    else:

        def with_captions(source: Source) -> None:
            prepare(source)
            add_captions(source, path, work)

        found.prepare = with_captions
    return options


@contextmanager
def _os_errors(destination: Path) -> Iterator[None]:
    """Turns a full disk, missing rights and the like into one line."""
    try:
        yield
    except OSError as error:
        where = error.filename or f"destination {destination}"
        raise UserError(
            f"{where}: {error.strerror or error}; mend that and run the same command: it goes on where it stopped"
        ) from error


@contextmanager
def _locked(destination: Path, goal: Goal) -> Iterator[Path]:
    """Makes the work folder inside the destination, keeps a second pack out of it, and tidies up after a failure."""
    work = destination / WORK
    new = [folder for folder in (destination, *destination.parents) if not folder.exists()]
    new = [destination, *new] if not goal.keeps_folder else new
    if destination.is_dir() and not work.exists() and not goal.has_begun(destination) and any(destination.iterdir()):
        raise UserError(f"destination {destination}: holds other files; name a new or an empty folder")
    with _lock_file(work) as lock:
        if file_locks.lock(lock.fileno()) == "taken":
            raise UserError(f"destination {destination}: another eyespot shards pack is writing there")
        try:
            yield work
        finally:
            if not any((*work.glob("*.json"), *work.glob("*/*.frames"))):  # nothing was finished to go on from
                shutil.rmtree(work, ignore_errors=True)
                for folder in [*(destination / split for split in SPLITS), *new]:
                    with suppress(OSError):  # not empty, or not there
                        folder.rmdir()


def _lock_file(work: Path) -> IO[str]:
    """Opened in a folder that is made; another task that had nothing to do may just take away what it made above."""
    for _ in range(20):
        with suppress(FileNotFoundError):
            work.mkdir(parents=True, exist_ok=True)
            return (work / "lock").open("w")
    work.mkdir(parents=True, exist_ok=True)
    return (work / "lock").open("w")


def _with_holdout(found: Source, holdout: float | None, seed: int) -> Source:
    if holdout is None:
        return found
    if set(found.splits) != {""}:
        raise UserError(f"holdout {holdout}: the source already has splits {sorted(found.splits)}; leave it out")
    train, test = hold_out(found.splits[""], holdout, seed)
    if not test:
        raise UserError(f"holdout {holdout}: the source has no class of two or more images")
    found.splits = {"train": train, "test": test}
    return found


def _plan(found: Source, options: dict[str, Any]) -> str:
    """A digest of everything that determines the shards."""
    digest = hashlib.sha256(json.dumps([options, found.classes]).encode())
    for split, items in sorted(found.splits.items()):
        for item in items:
            more = f"\0{item.mask.size}" if item.mask else ""
            more += f"\0{item.frames.plan}" if item.frames else ""
            more += "".join(f"\0{extension} {place.size}" for extension, place in item.members)
            digest.update(f"{split}\0{item.name}\0{item.label}\0{item.size}{more}\n".encode())
    return digest.hexdigest()


def _check_work(work: Path, destination: Path, plan: str) -> None:
    """Keeps the finished parts of the same plan; refuses to mix in another one."""
    path = work / "plan"
    if path.exists() and path.read_text() != plan and any(work.glob("*.json")):
        raise UserError(
            f"destination {destination}: an unfinished pack of another source or other options lies there;"
            f" name another folder, or delete it: rm -r {destination}"
        )
    atomic_files.write_bytes(path, plan.encode())


# ----------------------------------------------------------------------------------------------- packing


def _pack_found(
    found: Source, destination: Path, work: Path, options: dict[str, Any], workers: int, goal: Goal
) -> dict[str, Manifest]:
    if found.prepare is not None:
        found.prepare(found)
    goal.adopt(found)
    _check_work(work, destination, _plan(found, options) if found.prepare else options["plan"])
    parts = _pack_splits(found, destination, work, options, workers, goal)
    return goal.commit(destination, found, parts, options)


def _pack_splits(
    found: Source, destination: Path, work: Path, options: dict[str, Any], workers: int, goal: Goal
) -> dict[str, list[PackedShard]]:
    parts: dict[str, list[PackedShard]] = {}
    orders = {
        split: taken(items, shuffled(len(items), options["seed"], f"pack/{split}"))
        for split, items in sorted(found.splits.items())
    }
    starts = {split: goal.start(split, order, options) for split, order in orders.items()}
    total = sum(len(start.positions) for start in starts.values())
    with ProgressBar(f"packing {found.name}", total) as bar:
        for split, order in orders.items():
            positions, first_id, first_shard, one_in = starts[split]
            todo, writing = order[positions.start : positions.stop], _Writing(destination / split, work, split, options)
            writing.first_id, writing.first_shard, writing.one_in = first_id, first_shard, one_in
            writing.fetch = found.fetch
            parts[split] = _pack_split(todo, writing, workers, goal, bar.advance)
    return parts


@dataclass(slots=True)
class _Writing:
    """Where the tars of one split go, and how they are cut and numbered."""

    folder: Path
    work: Path
    split: str
    options: dict[str, Any]
    first_id: int = 0
    first_shard: int = 0
    one_in: int = 1
    fetch: Any = None

    @property
    def stem(self) -> Path:
        """Of what is noted of them."""
        return self.work / (self.split or "all")

    def has_room(self, writer: ShardWriter, image: Examined, item: Item) -> bool:
        """Whether one more sample keeps the tar within its limits."""
        return writer.has_room(image, item, self.options["max_samples"], self.options["max_bytes"])


def _pack_split(
    order: Sequence[Item], to: _Writing, workers: int, goal: Goal, advance: Callable[[], None]
) -> list[PackedShard]:
    """Writes the tars of one split; parts that an earlier call finished are kept."""
    to.folder.mkdir(exist_ok=True)
    parts = _finished(to.folder, to.stem)
    start = parts[-1].next if parts else 0
    for _ in range(start):
        advance()
    first_id = to.first_id + sum(len(part.rows) for part in parts)
    part, writer = PackedShard(next=start, one_in=to.one_in), None
    try:
        todo = order[start:]
        limits: dict[str, Any] = {
            "resize": to.options["resize"],
            "max_pixels": to.options.get("max_pixels", MAX_PIXELS),
        }
        limits["bands"] = bands_of(to.options)
        there = in_reach(todo, to.work, to.fetch)
        images = goal.screened(to.split, done_with(there, examine_items(there, workers, one_in=to.one_in, **limits)))
        for item, image in zip(todo, images, strict=True):
            if isinstance(image, str):
                part.quarantined.append({"source": item.name, "reason": image})
            else:
                if writer is not None and not to.has_room(writer, image, item):
                    first_id += _finish(part, writer, to.stem, parts)
                    part, writer = PackedShard(next=part.next, one_in=to.one_in), None
                writer = writer or ShardWriter(to.folder, to.first_shard + len(parts), first_id)
                writer.add(image, item)
                part.count(image)
            part.next += 1
            advance()
        if writer is not None:
            _finish(part, writer, to.stem, parts)
            writer = None
        elif part.quarantined:
            parts.append(part)
    finally:
        if writer is not None:
            writer.discard()
    return parts


def _finish(part: PackedShard, writer: ShardWriter, stem: Path, parts: list[PackedShard]) -> int:
    part.shard, part.rows, part.masks, part.frames, part.members = writer.close()
    part.save(_numbered(stem, len(parts)))
    parts.append(part)
    return len(part.rows)


def _numbered(stem: Path, number: int) -> Path:
    return stem.with_name(f"{stem.name}-{number:06d}")


def _finished(folder: Path, stem: Path) -> list[PackedShard]:
    """The parts that an earlier call finished and whose tars are still what they were."""
    parts: list[PackedShard] = []
    while _numbered(stem, len(parts)).with_suffix(".json").exists():
        try:
            part = PackedShard.load(_numbered(stem, len(parts)))
        except (UserError, OSError, ValueError):  # damaged: it is packed anew
            break
        assert part.shard is not None
        tar = folder / part.shard.tar
        if not tar.exists() or not tar.with_suffix(".idx").exists() or sha256(tar) != part.shard.sha256:
            break
        parts.append(part)
    kept = {part.shard.tar for part in parts if part.shard}
    for tar in [*folder.glob("shard-*.tar"), *folder.glob("*.tmp")]:
        if tar.name not in kept:
            tar.unlink()
    return parts
