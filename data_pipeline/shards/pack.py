"""Packs images into shards: plain WebDataset tars, their indexes, one manifest. See manifest.py for what stands where.

Same source and options, same bytes, whatever the number of workers. While packing, DESTINATION/.packing keeps one
small file per finished shard, from which a killed pack goes on; the manifests are written last, so that a folder
with a manifest is complete.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files, file_locks
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS, examine_items
from eyespot.data_pipeline.shards.manifest import IGNORED, MOST_QUARANTINED, Manifest, Masks, Reading, image_stats
from eyespot.data_pipeline.shards.members.caption_file import add_captions, caption_options
from eyespot.data_pipeline.shards.members.footage import of_same_streams
from eyespot.data_pipeline.shards.members.items import Item, Source, hold_out, shuffled
from eyespot.data_pipeline.shards.members.skipped import quarantined_beyond
from eyespot.data_pipeline.shards.pack_masks import add_masks, notes_on_masks
from eyespot.data_pipeline.shards.packed_shard import PackedShard
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.shard_writer import ShardWriter
from eyespot.data_pipeline.shards.sources import DOWNLOADS, open_source

WORK = ".packing"
SPLITS = ("test", "train", "val")


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
) -> dict[str, Manifest]:
    """Writes a source as shards, shuffled; goes on where an earlier, killed call with the same arguments stopped.

    Args:
        source: a name or path, see ``sources.open_source``; or a function that makes one, given an empty folder to use.
        destination: a new or empty folder. A source with splits is written as destination/train and destination/test.
        masks: a folder with the segmentation mask of each image, see pack_masks.py; those without are quarantined.
        mask_ignored: the class number of pixels that say nothing.
        captions: a file with those of the images, see members/caption_file.py.
        max_samples: most samples in one tar.
        max_bytes: largest tar, bytes (a single larger sample is written nevertheless).
        resize: shrink images so that their short side has this many pixels.
        max_pixels: a larger image is quarantined.
        holdout: share of each class that is held out as test, 0..1; for a source without splits.
        workers: processes that read and decode.
        seed: of the shuffle and the holdout.
        downloads: where torchvision's data sets are kept.
        reading: how to understand what can be understood in several ways.

    Returns:
        The manifest of each split; the only key is "" where there are no splits.

    Raises:
        UserError: the source holds nothing to pack, the destination cannot be written or holds something else.
    """
    options = {"max_samples": max_samples, "max_bytes": max_bytes, "resize": resize, "holdout": holdout, "seed": seed}
    _check({**options, "max_pixels": max_pixels, "workers": workers}, mask_ignored)
    options |= {"max_pixels": max_pixels} if max_pixels != MAX_PIXELS else {}
    with _os_errors(destination), _locked(destination) as work:
        found = open_source(source, work, downloads, reading) if isinstance(source, str) else source(work)
        found.splits = of_same_streams(found.splits)
        options |= found.options | _mask_options(found, masks, mask_ignored) | _caption_options(found, captions, work)
        found = _with_holdout(found, holdout, seed)
        options = {"source": found.name, **options, "plan": _plan(found, options)}
        if (manifests := _already_packed(destination, found, options["plan"])) is not None:
            shutil.rmtree(work)
            return manifests
        if found.prepare is not None:
            found.prepare(found)
        _check_work(work, destination, _plan(found, options) if found.prepare else options["plan"])
        parts = _pack_splits(found, destination, work, options, workers)
        manifests = _commit(destination, found, parts, options)
        shutil.rmtree(work)
    return manifests


# ------------------------------------------------------------------------------------------------ before


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
    has_masks = any(item.has_masks for items in found.splits.values() for item in items)
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
def _locked(destination: Path) -> Iterator[Path]:
    """Makes the work folder inside the destination, keeps a second pack out of it, and tidies up after a failure."""
    work, is_new = destination / WORK, not destination.exists()
    if destination.is_dir() and not work.exists() and not _manifest_folders(destination) and any(destination.iterdir()):
        raise UserError(f"destination {destination}: holds other files; name a new or an empty folder")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        if file_locks.lock(lock.fileno()) == "taken":
            raise UserError(f"destination {destination}: another eyespot shards pack is writing there")
        try:
            yield work
        finally:
            if not any((*work.glob("*.json"), *work.glob("*/*.frames"))):  # nothing was finished to go on from
                shutil.rmtree(work, ignore_errors=True)
                for folder in [*(destination / split for split in SPLITS), *([destination] if is_new else [])]:
                    with suppress(OSError):  # not empty, or not there
                        folder.rmdir()


def _manifest_folders(destination: Path) -> list[Path]:
    folders = [destination, *(destination / split for split in SPLITS)]
    return [folder for folder in folders if (folder / "manifest.json").exists()]


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


def _already_packed(destination: Path, found: Source, plan: str) -> dict[str, Manifest] | None:
    folders = _manifest_folders(destination)
    if any(ShardFolder(folder).manifest.packing.get("plan") != plan for folder in folders):
        raise UserError(
            f"destination {destination}: holds shards of another source or other options; name another folder"
        )
    if len(folders) < len(found.splits):
        return None
    return {split: ShardFolder(destination / split).manifest for split in sorted(found.splits)}


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


def _pack_splits(
    found: Source, destination: Path, work: Path, options: dict[str, Any], workers: int
) -> dict[str, list[PackedShard]]:
    parts: dict[str, list[PackedShard]] = {}
    with ProgressBar(f"packing {found.name}", sum(map(len, found.splits.values()))) as bar:
        for split, items in sorted(found.splits.items()):
            stem = work / (split or "all")
            parts[split] = _pack_split(items, destination / split, stem, options, workers, split, bar.advance)
    return parts


def _pack_split(
    items: list[Item],
    folder: Path,
    stem: Path,
    options: dict[str, Any],
    workers: int,
    split: str,
    advance: Callable[[], None],
) -> list[PackedShard]:
    """Writes the tars of one split; parts that an earlier call finished are kept."""
    folder.mkdir(exist_ok=True)
    order = [items[row] for row in shuffled(len(items), options["seed"], f"pack/{split}")]
    parts = _finished(folder, stem)
    start = parts[-1].next if parts else 0
    for _ in range(start):
        advance()
    first_id = sum(len(part.rows) for part in parts)
    part, writer = PackedShard(next=start), None
    try:
        todo = order[start:]
        limits = {"resize": options["resize"], "max_pixels": options.get("max_pixels", MAX_PIXELS)}
        for item, image in zip(todo, examine_items(todo, workers, **limits), strict=True):
            if isinstance(image, str):
                part.quarantined.append({"source": item.name, "reason": image})
            else:
                if writer is not None and not writer.has_room(
                    image, item, options["max_samples"], options["max_bytes"]
                ):
                    first_id += _finish(part, writer, stem, parts)
                    part, writer = PackedShard(next=part.next), None
                writer = writer or ShardWriter(folder, len(parts), first_id)
                writer.add(image, item)
                part.count(image)
            part.next += 1
            advance()
        if writer is not None:
            _finish(part, writer, stem, parts)
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


def sha256(path: Path) -> str:
    """Of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------- after


def _commit(
    destination: Path, found: Source, parts: dict[str, list[PackedShard]], options: dict[str, Any]
) -> dict[str, Manifest]:
    """Writes the indexes, then the manifests, train's last: what a reader looks for first appears last."""
    manifests: dict[str, Manifest] = {}
    for split, done in sorted(parts.items()):
        sums, squares = (np.sum([getattr(part, name) for part in done], 0).tolist() for name in ("sums", "squares"))
        rows, masks, frames, members = PackedShard.tables(done)
        quarantined = sorted((bad for part in done for bad in part.quarantined), key=lambda bad: bad["source"])
        if not len(rows):
            example = f"; {quarantined[0]['source']}: {quarantined[0]['reason']}" if quarantined else ""
            which = f" of {split}" if split else ""
            raise UserError(f"source {found.name}: not one image{which} could be packed{example}")
        files = {"index.npy": atomic_files.npy_bytes(rows)}
        files |= {"masks.npy": atomic_files.npy_bytes(masks)} if len(masks) else {}
        files |= (tables := frames.files() if frames else {}) | members.files()
        for name, data in files.items():
            (destination / split / name).parent.mkdir(exist_ok=True)
            atomic_files.write_bytes(destination / split / name, data)
        counts = np.sum([part.mask_counts for part in done], 0).tolist()
        manifests[split] = Manifest(
            name=found.name,
            num_samples=len(rows),
            num_labeled=int((rows["label"] >= 0).sum()),
            classes=found.classes,
            shards=[part.shard for part in done if part.shard],
            image_stats=image_stats(frames.rows if frames else rows, sums, squares),
            index_sha256=hashlib.sha256(files["index.npy"]).hexdigest(),
            quarantined=quarantined[:MOST_QUARANTINED],
            converted=dict(sorted(sum((Counter(part.converted) for part in done), Counter()).items())),
            packing={"split": split, **options, "skipped": found.skipped.total},
            skipped=found.skipped.listed() + quarantined_beyond(quarantined),
            notes=found.notes + (notes_on_masks(counts, options["mask_ignored"]) if len(masks) else []),
            masks=Masks.of(masks, counts, options["mask_ignored"]) if len(masks) else None,
            frames=frames.summary(tables) if frames else None,
            members=members.summary(),
        )
    for split, manifest in manifests.items():
        atomic_files.write_bytes(destination / split / "manifest.json", manifest.to_json().encode())
    return manifests
