"""Checks shard folders against their manifests: every byte, every image, every number."""

import os
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from math import isclose
from pathlib import Path

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import READABLE_PIXELS
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS
from eyespot.data_pipeline.shards.index_tars import Contents, Measured, measure, read_contents
from eyespot.data_pipeline.shards.manifest import BEFORE_READINGS, IGNORED, MOST_QUARANTINED
from eyespot.data_pipeline.shards.pack import WORK, sha256
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import how_to_shard

MAX_LINES = 20  # of one sort in one tar


def verify(folder: Path, workers: int = NUM_WORKERS) -> list[str]:
    """Reads every byte and decodes every image of a shard folder, or of a folder of them (train, test).

    Returns:
        One line for each problem, which names the file and the fix; empty = all is well.
    """
    folders = shard_folders(folder)
    if not folders:
        return [f"{folder}: no shards inside; {how_to_shard(folder)}"]
    unfinished = [f"{folder}: packing was not finished; run the same eyespot shards pack again"]
    problems = unfinished if (folder / WORK / "plan").exists() else []
    return problems + [problem for part in folders for problem in _verify_folder(part, workers)]


def shard_folders(folder: Path) -> list[Path]:
    """The folder itself if it holds shards, else those of its subfolders that do."""
    candidates = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    found = [path for path in candidates if (path / "manifest.json").exists() or any(path.glob("*.tar"))]
    return [folder] if folder in found else found


def _verify_folder(folder: Path, workers: int) -> list[str]:
    try:
        shards = ShardFolder(folder)
        _ = shards.index, shards.masks if shards.manifest.masks else None
    except UserError as error:
        return [str(error)]
    tars = [shards.tar_path(number) for number in range(len(shards.manifest.shards))]
    problems = [f"{path}: not in the manifest; {_index(folder)}" for path in _strangers(shards)]
    problems += chain.from_iterable(_verify_tar(shards, number) for number in range(len(tars)))
    problems += _verify_manifest(shards)
    if problems:  # the rest would only repeat them
        return problems + list(_changed_samples(shards))
    contents = read_contents(tars, shards.manifest.reading or BEFORE_READINGS)
    problems = contents.problems + list(_verify_idx(contents)) + list(_verify_rows(shards, contents))
    return problems or _verify_images(shards, contents, workers)


def _index(folder: Path) -> str:
    return f"make the index anew: eyespot shards index {folder}"


def _strangers(shards: ShardFolder) -> list[Path]:
    known = {shard.tar for shard in shards.manifest.shards}
    return [path for path in sorted(shards.path.glob("*.tar")) if path.name not in known]


def _verify_tar(shards: ShardFolder, number: int) -> Iterator[str]:
    shard, path = shards.manifest.shards[number], shards.tar_path(number)
    again = "pack or fetch it again"
    if not path.is_file():
        yield f"{path}: missing; {again}"
    elif path.stat().st_size != shard.bytes:
        how = "truncated" if path.stat().st_size < shard.bytes else "grown"
        yield f"{path}: {how}: {path.stat().st_size} bytes where the manifest says {shard.bytes}; {again}"
    elif sha256(path) != shard.sha256:
        yield f"{path}: changed since it was packed (sha256 differs from the manifest's); {again}"


def _verify_manifest(shards: ShardFolder) -> Iterator[str]:
    """Whether the manifest's own numbers agree with each other and with the index."""
    folder, manifest, index = shards.path, shards.manifest, shards.index
    where = folder / "manifest.json"
    counts = np.bincount(index["tar"], minlength=len(manifest.shards)).tolist()
    if len(counts) > len(manifest.shards):
        yield f"{where}: lists {len(manifest.shards)} shards, the index {len(counts)}; {_index(folder)}"
    for shard, count in zip(manifest.shards, counts, strict=False):
        if shard.num_samples != count:
            yield f"{where}: {shard.tar} num_samples {shard.num_samples}, the index has {count}; {_index(folder)}"
    if manifest.num_labeled != (num_labeled := int((index["label"] >= 0).sum())):
        yield f"{where}: num_labeled {manifest.num_labeled}, the index has {num_labeled}; {_index(folder)}"
    if int(index["label"].max(initial=-1)) >= len(manifest.classes):
        label = index["label"].max()
        yield f"{where}: {len(manifest.classes)} classes, but the index has label {label}; {_index(folder)}"


def _changed_samples(shards: ShardFolder) -> Iterator[str]:
    """Names the samples whose bytes are no longer what was packed."""
    index = shards.index
    for number in range(len(shards.manifest.shards)):
        path = shards.tar_path(number)
        if not path.is_file():
            continue
        with path.open("rb") as file:
            changed = (
                f"{path}: sample {row} (offset {index['offset'][row]}) differs from what was packed"
                f" (crc32); pack or fetch the tar again"
                for row in np.flatnonzero(index["tar"] == number).tolist()
                if zlib.crc32(os.pread(file.fileno(), int(index["size"][row]), int(index["offset"][row])))
                != index["crc32"][row]
            )
            yield from islice(changed, MAX_LINES)


def _verify_idx(contents: Contents) -> Iterator[str]:
    for tar, text in contents.idx.items():
        path = tar.with_suffix(".idx")
        if not path.is_file():
            yield f"{path}: missing; {_index(tar.parent)}"
        elif path.read_bytes() != text.encode():
            yield f"{path}: stale: it does not describe {tar.name}; {_index(tar.parent)}"


def _verify_rows(shards: ShardFolder, contents: Contents) -> Iterator[str]:
    """Whether the index lists each sample of the tars, where it is and with its label."""
    folder, manifest, index = shards.path, shards.manifest, shards.index
    numbers = {str(tar): number for number, tar in enumerate(contents.tars)}
    quarantined = {bad["source"] for bad in manifest.quarantined}
    actual = {
        (numbers[item.path], item.offset): (item.size, item.label)
        for item in contents.items
        if item.name not in quarantined
    }
    rows = index[["tar", "offset", "size", "label"]].tolist()
    listed = {(tar, offset): (size, label) for tar, offset, size, label in rows}
    wrong = [place for place, what in listed.items() if actual.get(place) != what]
    are_all_named = len(quarantined) < MOST_QUARANTINED  # else some were left out that are only counted
    absent = [place for place in actual if place not in listed] if are_all_named else []
    if len(listed) != len(rows):
        yield f"{folder / 'index.npy'}: lists {len(rows) - len(listed)} samples twice; {_index(folder)}"
    for what, places in (("rows that no tar bears out", wrong), ("samples of the tars missing", absent)):
        if places:
            tar, offset = places[0]
            where = f"the first in {contents.tars[tar].name} at offset {offset}"
            yield f"{folder / 'index.npy'}: {len(places)} {what}, {where}; {_index(folder)}"


def _verify_images(shards: ShardFolder, contents: Contents, workers: int) -> list[str]:
    """Decodes everything again: sizes, checksums, statistics."""
    folder, manifest, index = shards.path, shards.manifest, shards.index
    known = {bad["source"] for bad in manifest.quarantined}
    contents.items = [item for item in contents.items if item.name not in known]
    if len(known) >= MOST_QUARANTINED:
        numbers = {str(tar): number for number, tar in enumerate(contents.tars)}
        listed = set(index[["tar", "offset"]].tolist())
        contents.items = [item for item in contents.items if (numbers[item.path], item.offset) in listed]
    measured = measure(contents, workers, f"verifying {folder.name}", READABLE_PIXELS)
    problems = [
        f"{folder / bad['source']}: {bad['reason']}; {_index(folder)}" for bad in measured.quarantined[:MAX_LINES]
    ]
    if problems or measured.stats is None:
        return problems
    if not np.array_equal(np.sort(measured.rows), np.sort(index)):
        problems.append(f"{folder / 'index.npy'}: a height, width or crc32 is not the image's; {_index(folder)}")
    problems += _verify_masks(shards, measured)
    told, actual = manifest.image_stats, measured.stats
    for name in ("mean", "std", "height", "width"):
        pairs = zip(getattr(told, name), getattr(actual, name), strict=True)
        if not all(isclose(a, b, rel_tol=1e-9) for a, b in pairs):
            problems.append(
                f"{folder / 'manifest.json'}: image_stats.{name} {getattr(told, name)} should be"
                f" {getattr(actual, name)}; {_index(folder)}"
            )
    return problems


def _verify_masks(shards: ShardFolder, measured: Measured) -> Iterator[str]:
    folder, told = shards.path, shards.manifest.masks
    actual = measured.masks(told.ignored if told else IGNORED)
    if told is None or actual is None:
        if told is not actual:
            which = "masks that the manifest does not list" if told is None else "none of the masks in the manifest"
            yield f"{folder}: the tars hold {which}; {_index(folder)}"
        return
    place = ["tar", "offset"]
    listed = shards.masks[np.argsort(shards.index, order=place)]
    if not np.array_equal(listed, measured.mask_rows[np.argsort(measured.rows, order=place)]):
        yield f"{folder / 'masks.npy'}: a place or crc32 is not the mask's; {_index(folder)}"
    if (told.num_masks, told.pixels) != (actual.num_masks, actual.pixels):
        yield f"{folder / 'manifest.json'}: masks are not counted right; {_index(folder)}"
