"""Where images come from: folders, tars, zips, IDX files, torchvision's sets, scikit-learn's digits -> lists of items.

An item says where its bytes lie; nothing is decoded here. What is compressed as a whole (a tar.gz, IDX in gzip) or only
exists as an array is first written once, plainly, into a spool folder, so that items can be read in any order.
"""

import logging
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.clips.falling_digits import open_falling_digits
from eyespot.data_pipeline.shards.image_check import SUFFIXES
from eyespot.data_pipeline.shards.manifest import MASK_EXTENSION, SPLITS, Reading, member_file
from eyespot.data_pipeline.shards.members.archives import TAR, Place, plain_tar, zip_files
from eyespot.data_pipeline.shards.members.class_names import classify, splits_of_files
from eyespot.data_pipeline.shards.members.footage import Refused
from eyespot.data_pipeline.shards.members.found_files import FoundFile, FoundFiles, in_splits, parts_of
from eyespot.data_pipeline.shards.members.frame_names import SOUNDS, frame_notes, frame_source, frames_of
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.members.packed_columns import Texts
from eyespot.data_pipeline.shards.members.samples import (
    check_plain,
    look_like_frames,
    samples_of,
    split_name,
    suffixes_of,
    with_frames,
)
from eyespot.data_pipeline.shards.members.side_files import EXTENSIONS, with_members
from eyespot.data_pipeline.shards.members.side_files import SUFFIXES as SIDE_SUFFIXES
from eyespot.data_pipeline.shards.members.skipped import Tally, hidden, no_image, printable
from eyespot.data_pipeline.shards.members.tar_members import Scan, all_damaged, scan
from eyespot.data_pipeline.shards.outside.array_sets import (
    DEBIAN_FASHION_MNIST,
    FASHION_CLASSES,
    IDX,
    TORCHVISION,
    digits,
    idx_folder,
    torchvision_set,
)
from eyespot.data_pipeline.shards.outside.img2dataset import count_failed, numbered
from eyespot.data_pipeline.shards.outside.path_lists import SUFFIXES as LISTS
from eyespot.data_pipeline.shards.outside.path_lists import read_list
from eyespot.data_pipeline.shards.outside.rows import Shared
from eyespot.data_pipeline.shards.outside.tables import SUFFIXES as TABLES
from eyespot.data_pipeline.shards.outside.tables import is_lmdb, open_lmdb, open_tables, saved_files
from eyespot.data_pipeline.stores.location import check_read_on_disk
from eyespot.data_pipeline.terminal import plural

log = logging.getLogger("eyespot")

NAMED = ("digits", "falling-digits", "caltech10", "cifar10", "cifar100", "mnist", "fashion-mnist")
CALTECH10 = Path(__file__).with_name("caltech10.tar.gz")
"""2,000 photographs that come with the package; benchmarks/make_caltech10.py says how they were made."""
DOWNLOADS = Path("~/.cache/eyespot/downloads")


def check_source(source: str) -> None:
    """Whether there is something to pack.

    Raises:
        UserError: nothing is called so, or it lies in an object store.
    """
    if source in NAMED:
        return
    check_read_on_disk("source", source)
    path = Path(source).expanduser()
    if not path.is_file() and not path.is_dir():
        raise UserError(f"source {source}: no such file or folder, nor one of the names {', '.join(NAMED)}")


def open_source(
    source: str,
    spool: Path,
    downloads: Path = DOWNLOADS,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    columns: Mapping[str, str] | None = None,
    shared: Shared | None = None,
) -> Source:
    """Lists the images of a source.

    Args:
        source: one of ``NAMED``, or the path of a folder of images (with or without class folders, with or without
            train/test/val above them), of a tar (compressed or not) or zip of such a folder, of WebDataset tars, of a
            folder of IDX files, of a Parquet or Arrow file, of a folder of those (also as Hugging Face's datasets saves
            it), of an LMDB, or of a list of images (.csv, .tsv, .jsonl). A name wins over a path; write ./digits for a
            folder of that name.
        spool: an existing folder for what must be unpacked first.
        downloads: where torchvision's data sets are kept.
        reading: how to understand what can be understood in several ways. The files of a tar are WebDataset samples
            where it has labels or masks (.cls, .seg.png), or ``reading`` says what a sample is; else each image is one.
        columns: of tables and lists, which column is the image, the label, the caption, where that is not clear.
        shared: with the other tasks of a pack.

    Raises:
        UserError: there is no such source, no image in it, it cannot be read, or can be read in several ways.
    """
    if columns and source in NAMED:
        raise UserError(f"columns: {source} has none; leave it out")
    if source == "digits":
        return digits(spool)
    if source == "falling-digits":
        return open_falling_digits()
    if source == "caltech10":
        return _archive(CALTECH10, spool, reading)
    if source in TORCHVISION:
        if source == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
            return idx_folder(DEBIAN_FASHION_MNIST, source, FASHION_CLASSES, spool)
        return torchvision_set(source, downloads.expanduser(), spool)
    check_source(source)
    path = Path(source).expanduser()
    if (found := _table(path, spool, reading, columns or {}, shared)) is not None:
        return found
    if columns:
        raise UserError(f"columns: only tables (Parquet, Arrow) and lists (.csv, .jsonl) have any, not {source}")
    if path.is_file():
        return _archive(path, spool, reading)
    if any(IDX.fullmatch(entry.name) for entry in path.iterdir()):
        classes = FASHION_CLASSES if "fashion" in path.resolve().name.lower() else ()
        return idx_folder(path, path.resolve().name, classes, spool)
    return _folder(path, spool, reading)


def _table(
    path: Path, spool: Path, reading: Reading, columns: Mapping[str, str], shared: Shared | None
) -> Source | None:
    """The images of a table or a list; None = it is something else."""
    if is_lmdb(path):
        return open_lmdb(path, spool, columns)
    if path.is_file() and path.suffix.lower() in LISTS:
        skipped, name = Tally(), printable(path.stem)
        found = arrange(name, read_list(path, spool, columns, skipped), f"source {path}", skipped, reading)
        found.options = {"columns": dict(columns)} if columns else {}
        return found
    if path.is_file() and path.suffix.lower() in TABLES:
        return open_tables(path, [path], [""], spool, columns, Tally(), shared)
    skipped = Tally()
    if path.is_dir() and (saved := saved_files(path, skipped)) is not None:
        return open_tables(path, *saved, spool, columns, skipped, shared)
    tables = _tables(path, skipped)
    return open_tables(path, tables, None, spool, columns, skipped, shared) if tables else None


def _tables(root: Path, skipped: Tally) -> list[Path]:
    """The tables of a folder that holds nothing else to pack."""
    if not root.is_dir():
        return []
    tables, others = list[str](), list[str]()
    for name, _, size in walk(root, Tally()):
        suffix, is_hidden = Path(name).suffix.lower(), hidden(parts_of(name)) is not None
        if not is_hidden and (suffix in SUFFIXES or TAR.search(name)):
            return []
        step = Path(name).name.startswith("cache-")  # of datasets' map or filter
        (tables if suffix in TABLES and size is not None and not step and not is_hidden else others).append(name)
    ours = {f"{shard}_stats.json" for shard in numbered(others)}
    for name in others if tables else ():
        if name not in ours:
            skipped.add(no_image(name), name)
    return sorted(root / name for name in tables)


# ------------------------------------------------------------------------------------------ folders and tars


def how_to_shard(path: Path) -> str:
    """What a path that is no shard folder holds, and the command that makes shards of it."""
    if path.is_file():
        return f"it is a file, not a folder of shards; make one of it: eyespot shards pack {path} DST"
    if (path / ".parts").is_dir():
        return f"it holds parts that are not merged yet; once all are there: eyespot shards merge {path}"
    seen = 0
    for folder, _, files in os.walk(path):
        if "manifest.json" in files and "index.npy" in files:
            inside = Path(folder)
            inside = inside.parent if inside.name in SPLITS and inside.parent != path else inside
            return f"name one of the data sets inside: {inside}"
        if any(name.endswith(".tar") for name in files):
            return f"index the tars that lie there: eyespot shards index {folder}"
        if any(os.path.splitext(name)[1].lower() in SUFFIXES | {".zip", *TABLES} for name in files):  # noqa: PTH122
            return f"it holds images, not shards; write them as shards: eyespot shards pack {path} DST"
        if (seen := seen + len(files)) > 10_000:
            break
    return f"make shards with: eyespot shards pack SRC {path}"


def _folder(root: Path, spool: Path, reading: Reading) -> Source:
    files: Sequence[FoundFile] = (listed := FoundFiles(os.fspath(root)))
    tars: list[Path] = []
    skipped, others, sides = Tally(), list[str](), list[tuple[str, Place]]()
    wanted = suffixes_of(reading) | {f".{sound}" for sound in SOUNDS if reading.frames not in (None, "none")}
    for name, path, size in walk(root, skipped):
        parts = parts_of(name)
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million times)
        if (reason := hidden(parts)) is not None:
            skipped.add(reason, name)
        elif suffix in wanted and size is None:
            skipped.add("a device, a pipe or the like", name)
        elif suffix in wanted and size is not None:
            listed.append(FoundFile(name, parts, Place(path, 0, size)))
        elif TAR.search(name):
            tars.append(Path(path))
        elif suffix in SIDE_SUFFIXES and size is not None and reading.frames in (None, "none"):
            sides.append((name, Place(path, 0, size)))
        else:
            others.append(name)
    ours = {str(path.relative_to(root)) for tar in map(Path, tars) for path in _made_beside(tar)}
    shards = numbered(others)
    ours |= count_failed(root, others, shards, skipped) if shards else set[str]()
    for name in others:
        if name not in ours:
            skipped.add(no_image(name), name)
    name = printable(root.resolve().name)
    if tars and not files:
        with_members([], sides, skipped)
        return _tars(name, sorted(tars), root, spool, reading, skipped)
    for path in tars:
        skipped.add("a tar beside the images: pack it by itself", str(path.relative_to(root)))
    if reading.frames in (None, "none"):
        files = with_members(files, sides, skipped)
    of_shards = bool(shards) and all("/".join(file.parts[:-1]) in shards for file in files)  # numbers, no classes
    return arrange(name, _joined(files, reading, skipped), f"source {root}", skipped, reading, classes=not of_shards)


def _joined(files: Sequence[FoundFile], reading: Reading, skipped: Tally) -> Sequence[FoundFile]:
    """Files that are frames, as the samples that they make; others as they are."""
    if reading.frames in (None, "none"):
        return files
    found: dict[str, dict[str, FoundFile]] = {}
    twice: dict[str, str] = {}
    for file in sorted(files):
        key, extension = split_name(file.parts, reading)
        other = found.setdefault(key, {}).setdefault(extension.lower(), file)
        if other is not file:
            twice[key] = f"two frames have one number: {other.name}, {file.name}"
    samples: list[FoundFile] = []
    for key, members in found.items():
        named = frames_of(members)
        for extension in members.keys() - named.used if named.streams else members:
            skipped.add(f"not named like a frame (--frames {reading.frames})", members[extension].name)
        if named.streams:
            files_of_key = {extension: (file.name, file.place) for extension, file in members.items()}
            frames = Refused(twice[key]) if key in twice else frame_source(named, files_of_key, reading.rate or 0.0)
            sound = named.sound if named.sound in EXTENSIONS else None
            beside = ((sound, members[sound].place),) if sound else ()
            samples.append(FoundFile(key, parts_of(key), Place("", 0, 0), frames=frames, members=beside))
    return samples


def _made_beside(tar: Path) -> list[Path]:
    """What ``eyespot shards index`` and ``pack`` write beside a tar: nothing of the source's."""
    tables = ("index.npy", "masks.npy", *map(member_file, EXTENSIONS))
    return [tar.with_suffix(".idx"), *(tar.parent / name for name in (*tables, "manifest.json"))]


def walk(root: Path, skipped: Tally) -> Iterator[tuple[str, str, int | None]]:
    """Name inside of the root, path, and bytes (None = no plain file) of all files; links are followed once."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"source {error.filename}: {error.strerror}; make it readable") from error

    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            skipped.add("a link to a folder that was read already", os.path.relpath(folder, root))
            continue
        seen.add(real)
        subfolders.sort()
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118
            found = os.stat(path) if os.path.exists(path) else None  # noqa: PTH110, PTH116 (a dead link)
            size = 0 if found is None else found.st_size if stat.S_ISREG(found.st_mode) else None
            yield os.path.relpath(path, root), path, size


def _archive(path: Path, spool: Path, reading: Reading) -> Source:
    if zipfile.is_zipfile(path):
        skipped = Tally()
        also = SIDE_SUFFIXES if reading.frames in (None, "none") else frozenset[str]()
        listed = zip_files(path, spool, skipped, also | (suffixes_of(reading) - SUFFIXES))
        sides = [(name, place) for name, place in listed if Path(name).suffix.lower() in also]
        images = [(name, place) for name, place in listed if Path(name).suffix.lower() not in also]
        files = [FoundFile(name, parts_of(name), place) for name, place in images]
        files = with_members(files, sides, skipped) if also else files
        return arrange(printable(path.stem), _joined(files, reading, skipped), f"source {path}", skipped, reading)
    return _tars(printable(TAR.sub("", path.name)), [path], None, spool, reading, Tally())


def _tars(name: str, tars: list[Path], root: Path | None, spool: Path, reading: Reading, skipped: Tally) -> Source:
    """All images of some tars; ``root`` is the folder that holds them, None = a single one was named."""
    shown = [str(tar.relative_to(root)) if root else tar.name for tar in tars]
    where = f"source {root or tars[0]}"
    splits = splits_of_files(where, shown) if root else [None]
    plain, scans = list[Path](), list[Scan]()
    with ProgressBar(f"listing {name}", len(tars)) as bar:
        for number, tar in enumerate(tars):
            plain.append(plain_tar(tar, spool, number))
            scans.append(scan(plain[-1]))
            bar.advance()
    if problems := [(str(tar), found.problem) for tar, found in zip(tars, scans, strict=True) if found.problem]:
        raise UserError(f"source {all_damaged(problems, 'fetch the archive again')}")
    asked, reading = reading, with_frames((member for found in scans for member in found.files), reading)
    said = (
        reading.frames not in (None, "none")
        or reading.key
        or reading.image_extension
        or reading.label_extension != Reading().label_extension
    )
    ends = (f".{reading.label_extension}", f".{MASK_EXTENSION}")
    has_samples = said or any(member.name.lower().endswith(ends) for found in scans for member in found.files)
    if not has_samples and look_like_frames((member for found in scans for member in found.files), reading):
        log.warning(
            "%s: its images look like frames (KEY.1.jpg, KEY.2.jpg); each is a sample, and with --frames dot they are"
            " clips",
            where,
        )
    files = FoundFiles()
    for tar, path, found, split in zip(shown, plain, scans, splits, strict=True):
        prefix = f"{printable(tar)}/" if root else ""
        skipped.add_all(found.skipped, prefix)
        read = (
            _samples(path, Path(tar), found, reading, skipped)
            if has_samples
            else _images(path, found, prefix, skipped, suffixes_of(reading))
        )
        files.extend(file._replace(name=f"{prefix}{file.name}", split=split) for file in read)
    source = arrange(name, files, where, skipped, reading)
    source.notes += frame_notes(files.num_clips, asked.frames)
    return source


def _samples(path: Path, shown: Path, found: Scan, reading: Reading, skipped: Tally) -> Iterator[FoundFile]:
    """The WebDataset samples of a tar."""
    for sample, text in samples_of(path, shown, found.files, reading, skipped):
        if image := sample.image:
            mask = sample.mask and Place(str(path), sample.mask.offset, sample.mask.size)
            place = Place(str(path), image.offset, image.size)
            frames = sample.footage(str(path), reading)
            members = sample.members_in(str(path))
            yield FoundFile(sample.name, sample.path, place, text, mask, frames=frames, members=members)


def _images(path: Path, found: Scan, prefix: str, skipped: Tally, suffixes: frozenset[str]) -> Sequence[FoundFile]:
    """Each image of a tar, which is that of a folder."""
    check_plain(path, found.files)
    files, sides = FoundFiles(), list[tuple[str, Place]]()
    for name, offset, size in found.files:
        parts = parts_of(name)
        reason, suffix = hidden(parts), os.path.splitext(name)[1].lower()  # noqa: PTH122
        if reason is None and suffix in SIDE_SUFFIXES:
            sides.append((name, Place(str(path), offset, size)))
            continue
        if reason is None and suffix not in suffixes:
            reason = no_image(name)
        if reason is None:
            files.append(FoundFile(name, parts, Place(str(path), offset, size)))
        else:
            skipped.add(reason, f"{prefix}{name}")
    return with_members(files, sides, skipped, prefix)


def arrange(
    name: str, files: Sequence[FoundFile], where: str, skipped: Tally, reading: Reading, classes: bool = True
) -> Source:
    """Reads splits and, unless they are none, classes off the paths: [shared folders/][split/][class/...]image."""
    if not files:
        most = ", ".join(f"{one.count} {one.reason}" for one in skipped.listed()[:3])
        raise UserError(
            f"{where}: no image files inside"
            f" ({plural(skipped.total, 'other file')}{': ' * bool(most)}{most}); images end in"
            " .jpg, .png, .webp, ...; a folder of WebDataset tars is read in place: eyespot shards index"
        )
    found = files if isinstance(files, FoundFiles) else FoundFiles.of(files)
    texts = found.column("text") if classes else [""] * len(found)
    names, labels, layout, notes = classify(found.column("parts"), texts, reading.class_folder)
    labels, own = np.array(labels, np.int32), found.column("split")
    splits = Texts.of(split if one is None else one for split, one in zip(layout.splits, own, strict=True))
    items = in_splits(found, splits, labels, skipped)
    return Source(name=name, splits=items, classes=names, skipped=skipped, notes=notes)
