"""Checks shard folders against their manifests: every byte, every image, every number."""

import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from math import isclose
from pathlib import Path

import numpy as np

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.patience import words
from eyespot.data_pipeline.shards.frames import CLIPS, FRAME_MASKS, FRAMES, MOTION
from eyespot.data_pipeline.shards.image_check import READABLE_PIXELS
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS
from eyespot.data_pipeline.shards.index_tars import Contents, Measured, indexable, measure, read_contents, reading_of
from eyespot.data_pipeline.shards.manifest import (
    BEFORE_READINGS,
    IGNORED,
    INDEX_DTYPE,
    MOST_QUARANTINED,
    Reading,
    member_file,
)
from eyespot.data_pipeline.shards.members.items import taken
from eyespot.data_pipeline.shards.members.side_files import EXTENSIONS
from eyespot.data_pipeline.shards.packed_shard import sha256
from eyespot.data_pipeline.shards.paged.listed_places import as_places, compare
from eyespot.data_pipeline.shards.paged.paged_index import PAGES
from eyespot.data_pipeline.shards.parts.addition import ADDING
from eyespot.data_pipeline.shards.parts.goal import WORK
from eyespot.data_pipeline.shards.parts.task_part import PARTS
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import how_to_shard
from eyespot.data_pipeline.shards.split_overlap import overlaps
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.terminal import plural

MAX_LINES = 20  # of one sort in one tar


@dataclass(kw_only=True, slots=True)
class Verdict:
    """What was found in a folder of shards."""

    folders: list[Location] = field(default_factory=list)
    """That were looked at."""
    problems: list[str] = field(default_factory=list)
    """One line each, which names the file and the fix; none = all is well."""
    unreadable: list[str] = field(default_factory=list)
    """One line for each folder that the file system did not give: nothing is known of the rest of it."""
    notes: list[str] = field(default_factory=list)
    """What is no damage, and good to know."""
    sound: list[Location] = field(default_factory=list)
    """Those of the folders in which nothing is wrong."""


def verify(folder: Path, workers: int = NUM_WORKERS) -> list[str]:
    """The problems of ``look_at``.

    Raises:
        Outage: there are none, as far as the file system gave what it has.
    """
    found = look_at(folder, workers)
    if found.unreadable and not found.problems:
        raise Outage(found.unreadable[0])
    return found.problems + found.unreadable


def look_at(folder: Path, workers: int = NUM_WORKERS) -> Verdict:
    """Reads every byte and decodes every image of all shard folders inside a folder, however deep."""
    found = Verdict()
    folders = shard_folders(folder, found.problems)
    found.folders += folders
    found.problems += [
        f"{place.parent}: packing was not finished; run the same eyespot shards pack again"
        for place in _folders(folder, [])
        if place.name == WORK and (place / "plan").exists()
    ]
    found.problems += [
        f"{place}: the parts of its tasks are not merged; once all are there: eyespot shards merge {place}"
        for place in _folders(folder, [])
        if (place / PARTS).is_dir()
    ]
    found.notes += [
        f"{place}: adding to it was not finished, and what was there is whole; run the same eyespot shards add again"
        for place in _folders(folder, [])
        if (place / ADDING).is_dir()
    ]
    if not folders and not found.problems:
        found.problems += [f"{folder}: no shards inside; {how_to_shard(folder)}"]
    for part in folders:
        try:
            problems = _verify_folder(part, workers)
        except UserError as error:
            problems = [str(error)]
        except (OSError, Outage) as error:
            found.unreadable.append(_unreadable(part, error))
            continue
        found.problems += problems
        found.sound += [] if problems else [part]
    try:
        found.notes += map(str, overlaps(found.sound))
    except (OSError, Outage) as error:
        found.unreadable.append(_unreadable(folder, error))
    return found


def _unreadable(folder: Path, error: OSError | Outage) -> str:
    if isinstance(error, Outage):
        return str(error)
    return f"{error.filename or folder}: cannot be read ({words(error)}); see to the file system, and verify again"


def shard_folders(folder: Path, refused: list[str] | None = None) -> list[Path]:
    """Where shards lie: the folder itself and those inside it, however deep, in order; links are followed once.

    Args:
        folder: where to look.
        refused: takes a line for each folder that may not be looked into.
    """
    places = _folders(folder, [] if refused is None else refused)
    return [path for path in places if path.name != WORK and _holds_shards(path)]


def _holds_shards(path: Path) -> bool:
    return (path / "manifest.json").exists() or any(path.glob("*.tar"))


def _folders(folder: Path, refused: list[str]) -> Iterator[Path]:
    """The folder and those inside it, each once, without hidden ones, such as a file system's snapshots."""
    known: set[tuple[int, int]] = set()
    places, itself = [folder], folder.resolve()
    while places:
        place = places.pop()
        above = place.is_symlink() and place != folder and itself.is_relative_to(place.resolve())
        try:
            status = place.stat()
            if above or not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in known:
                continue
            known.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                inside = [Path(entry.path) for entry in entries if _is_folder(entry)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            refused.append(f"{place}: may not be looked into ({words(error)}); ask its owner")
            continue
        yield place
        if place.name != WORK:
            shown = (path for path in inside if not path.name.startswith(".") or path.name == WORK)
            places += sorted(shown, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _verify_folder(folder: Path, workers: int) -> list[str]:
    if not (folder / "manifest.json").exists():
        indexable(folder, Reading())  # where an index cannot be made, that is what has to be said
    shards = ShardFolder(folder)
    _ = shards.index, shards.masks if shards.manifest.masks else None
    for extension in shards.manifest.members:
        shards.member(extension)
    if (told := shards.manifest.frames) is not None:
        _ = shards.clips, shards.motion, shards.frame_masks if told.masks_sha256 else None
    tars = [shards.local_tar(number) for number in range(len(shards.manifest.shards))]
    problems = [f"{path}: not in the manifest; {_index(folder)}" for path in _strangers(shards)]
    problems += chain.from_iterable(_verify_tar(shards, number) for number in range(len(tars)))
    problems += manifest_problems(shards)
    if problems:  # the rest would only repeat them
        return problems + list(_changed_samples(shards))
    contents = read_contents(tars, reading_of(folder, shards.manifest.reading or BEFORE_READINGS))
    problems = [f"{tar}: {problem}" for tar, problem in contents.problems]
    problems += list(_verify_idx(contents)) + list(_verify_rows(shards, contents))
    return problems or _verify_images(shards, contents, workers)


def _index(folder: Location) -> str:
    return f"make the index anew: eyespot shards index {folder}"


def _strangers(shards: ShardFolder) -> list[Path]:
    folder = Path(str(shards.path))
    if (folder / ADDING).is_dir() or (folder.parent / ADDING).is_dir():
        return []  # some may be in their places already
    known = {shard.tar for shard in shards.manifest.shards}
    return [path for path in sorted(folder.glob("*.tar")) if path.name not in known]


def _verify_tar(shards: ShardFolder, number: int) -> Iterator[str]:
    shard, path = shards.manifest.shards[number], shards.local_tar(number)
    again = "pack or fetch it again"
    if not path.is_file():
        yield f"{path}: missing; {again}"
    elif path.stat().st_size != shard.bytes:
        how = "truncated" if path.stat().st_size < shard.bytes else "grown"
        yield f"{path}: {how}: {path.stat().st_size} bytes where the manifest says {shard.bytes}; {again}"
    elif sha256(path) != shard.sha256:
        yield f"{path}: changed since it was packed (sha256 differs from the manifest's); {again}"


def manifest_problems(shards: ShardFolder) -> Iterator[str]:
    """Whether the manifest's own numbers agree with each other and with the index."""
    folder, manifest, index = shards.path, shards.manifest, shards.index
    where = folder / "manifest.json"
    counts = np.bincount(index["tar"], minlength=len(manifest.shards)).tolist()
    if len(counts) > len(manifest.shards):
        yield f"{where}: lists {plural(len(manifest.shards), 'shard')}, the index {len(counts)}; {_index(folder)}"
    for shard, count in zip(manifest.shards, counts, strict=False):
        if shard.num_samples != count:
            yield f"{where}: {shard.tar} num_samples {shard.num_samples}, the index has {count}; {_index(folder)}"
    if manifest.num_labeled != (num_labeled := int((index["label"] >= 0).sum())):
        yield f"{where}: num_labeled {manifest.num_labeled}, the index has {num_labeled}; {_index(folder)}"
    if int(index["label"].max(initial=-1)) >= len(manifest.classes):
        label = index["label"].max()
        yield f"{where}: {plural(len(manifest.classes), 'class')}, but the index has label {label}; {_index(folder)}"


def _changed_samples(shards: ShardFolder) -> Iterator[str]:
    """Names the samples, or frames, whose bytes are no longer what was packed."""
    rows, of = (shards.frames, "frame") if shards.manifest.frames else (shards.index, "sample")
    by_tar = np.argsort(rows["tar"], kind="stable")
    ends = np.searchsorted(rows["tar"][by_tar], np.arange(1, len(shards.manifest.shards)))
    for number, own in enumerate(np.split(by_tar, ends)):
        path = shards.local_tar(number)
        if not path.is_file():
            continue
        with path.open("rb") as file:
            changed = (
                f"{path}: {of} {row} (offset {rows['offset'][row]}) differs from what was packed"
                f" (crc32); pack or fetch the tar again"
                for row in own.tolist()
                if zlib.crc32(os.pread(file.fileno(), int(rows["size"][row]), int(rows["offset"][row])))
                != rows["crc32"][row]
            )
            yield from islice(changed, MAX_LINES)


def _verify_idx(contents: Contents) -> Iterator[str]:
    for tar, text in contents.idx.items():
        path = tar.with_suffix(".idx")
        if not path.is_file():
            yield f"{path}: missing; {_index(tar.parent)}"
        elif not _holds(path, text.blocks()):
            yield f"{path}: stale: it does not describe {tar.name}; {_index(tar.parent)}"


def _holds(path: Path, blocks: Iterable[bytes]) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(block)) == block for block in blocks) and not file.read(1)


def _verify_rows(shards: ShardFolder, contents: Contents) -> Iterator[str]:
    """Whether the index lists each sample of the tars, where it is and with its label."""
    folder, file = shards.path, _index_file(shards)
    quarantined = {bad["source"] for bad in shards.manifest.quarantined}
    listed, there = as_places(shards.index), _places_of(contents, quarantined)
    found = compare(listed, there)
    if found.num_twice:
        yield f"{file}: lists {plural(found.num_twice, 'sample')} twice; {_index(folder)}"
    are_all_named = len(quarantined) < MOST_QUARANTINED  # else some were left out that are only counted
    for what, rows in (
        ("rows that no tar bears out", listed[found.wrong]),
        ("samples of the tars missing", there[found.absent] if are_all_named else there[:0]),
    ):
        if len(rows):
            where = f"the first in {contents.tars[rows['tar'][0]].name} at offset {rows['offset'][0]}"
            yield f"{file}: {len(rows)} {what}, {where}; {_index(folder)}"


def _places_of(contents: Contents, left_out: set[str]) -> np.ndarray:
    numbers = {str(tar): number for number, tar in enumerate(contents.tars)}
    kept = (item for item in contents.items if item.name not in left_out)
    return as_places((numbers[item.path], item.offset, item.size, item.label) for item in kept)


def _index_file(shards: ShardFolder) -> Location:
    return shards.path / ("index.npy" if shards.manifest.pieces is None else str(Path(PAGES).parent))


def _verify_images(shards: ShardFolder, contents: Contents, workers: int) -> list[str]:
    """Decodes everything again: sizes, checksums, statistics."""
    folder, manifest = shards.path, shards.manifest
    known = {bad["source"] for bad in manifest.quarantined}
    if known:
        kept = (row for row, item in enumerate(contents.items) if item.name not in known)
        contents.items = taken(contents.items, np.fromiter(kept, np.int64))
    if len(known) >= MOST_QUARANTINED:
        is_listed = compare(as_places(shards.index), _places_of(contents, set())).is_listed
        contents.items = taken(contents.items, np.flatnonzero(is_listed))
    one_in = manifest.image_stats.one_in
    measured = measure(contents, workers, f"verifying {folder.name}", READABLE_PIXELS, one_in)
    problems = [
        f"{folder / bad['source']}: {bad['reason']}; {_index(folder)}" for bad in measured.quarantined[:MAX_LINES]
    ]
    if problems or measured.stats is None:
        return problems
    problems += _wrong_rows(shards, measured.rows)
    problems += _verify_masks(shards, measured)
    problems += _verify_frames(shards, measured)
    problems += _verify_members(shards, measured)
    told, actual = manifest.image_stats, measured.stats
    for name in ("mean", "std", "height", "width"):
        pairs = zip(getattr(told, name), getattr(actual, name), strict=True)
        if not all(isclose(a, b, rel_tol=1e-9) for a, b in pairs):
            problems.append(
                f"{folder / 'manifest.json'}: image_stats.{name} {getattr(told, name)} should be"
                f" {getattr(actual, name)}; {_index(folder)}"
            )
    return problems


def _wrong_rows(shards: ShardFolder, measured: np.ndarray) -> Iterator[str]:
    """Whether each row says of its image what the image says; both list the same places."""
    index, place = shards.index, ["tar", "offset"]
    listed, actual = np.argsort(index, order=place), np.sort(measured, order=place)
    wrong = np.flatnonzero(index[listed] != actual) if len(listed) == len(actual) else []
    if len(wrong):
        row, image = int(listed[wrong[0]]), actual[wrong[0]]
        name = next(name for name in INDEX_DTYPE.fields or {} if index[name][row] != image[name])
        yield (
            f"{_index_file(shards)}: {name} {index[name][row]} of sample {row} is not the image's, {image[name]}"
            f" ({len(wrong)} such); {_index(shards.path)}"
        )


def _verify_frames(shards: ShardFolder, measured: Measured) -> Iterator[str]:
    """Whether the tables of frames say what the tars do, sample by sample, however these are ordered."""
    told, actual = shards.manifest.frames, measured.frames
    if told is None or actual is None:
        if told is not None or actual is not None:
            which = "frames that the manifest does not list" if told is None else "none of the frames in the manifest"
            yield f"{shards.path}: the tars hold {which}; {_index(shards.path)}"
        return
    place = ["tar", "offset"]
    listed, found = np.argsort(shards.frames, order=place), np.argsort(actual.rows, order=place)
    masks = shards.frame_masks if told.masks_sha256 else np.zeros_like(actual.masks)
    tables = ((FRAMES, shards.frames, actual.rows), (FRAME_MASKS, masks, actual.masks))
    wrong = [name for name, ours, theirs in tables if not np.array_equal(ours[listed], theirs[found])]
    if not wrong and not np.allclose(shards.motion[listed], actual.motion[found], atol=0.1):
        wrong = [MOTION]  # to a tenth of a level: another version of a decoder rounds otherwise
    samples = np.argsort(shards.index, order=place), np.argsort(measured.rows, order=place)
    ours, theirs = shards.clips[samples[0]], actual.clips[samples[1]]
    if not np.array_equal(ours[["count", "rate"]], theirs[["count", "rate"]]):
        wrong.append(CLIPS)
    for name in wrong:
        yield f"{shards.path / name}: does not say what the frames in the tars are; {_index(shards.path)}"
    counted = actual.summary(actual.files())
    for name in ("num_frames", "streams", "rate", "count"):
        if getattr(told, name) != getattr(counted, name):
            what = f"frames.{name} {getattr(told, name)} should be {getattr(counted, name)}"
            yield f"{shards.path / 'manifest.json'}: {what}; {_index(shards.path)}"


def _verify_members(shards: ShardFolder, measured: Measured) -> Iterator[str]:
    """Whether the tables of members say what the tars do; what a manifest of an older version does not list is none."""
    place = ["tar", "offset"]
    listed, found = np.argsort(shards.index, order=place), np.argsort(measured.rows, order=place)
    counted = measured.members.summary()
    for extension, told in shards.manifest.members.items():
        if extension not in EXTENSIONS:
            why = 'sounds can only be checked with soundfile: pip install "eyespot[sound]"'
            yield f"{shards.path / member_file(extension)}: .{extension} is not known here; {why}"
            continue
        rows, actual = shards.member(extension), measured.members.rows.get(extension)
        actual = np.zeros_like(rows) if actual is None else actual
        if not np.array_equal(rows[listed], actual[found]):
            name = member_file(extension)
            yield f"{shards.path / name}: a place or crc32 is not the member's; {_index(shards.path)}"
        elif told.count != (counted[extension].count if extension in counted else 0):
            name = f"members.{extension}.count {told.count}"
            yield f"{shards.path / 'manifest.json'}: {name} is not what the tars hold; {_index(shards.path)}"


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
