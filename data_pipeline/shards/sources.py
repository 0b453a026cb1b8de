"""Where images come from: folders, tars, zips, IDX files, torchvision's sets, scikit-learn's digits -> lists of items.

An item says where its bytes lie; nothing is decoded here. What is compressed as a whole (a tar.gz, IDX in gzip) or only
exists as an array is first written once, plainly, into a spool folder, so that items can be read in any order.
"""

import gzip
import logging
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.clips.falling_digits import open_falling_digits
from eyespot.data_pipeline.shards.image_check import SUFFIXES
from eyespot.data_pipeline.shards.manifest import MASK_EXTENSION, SPLITS, Reading, member_file
from eyespot.data_pipeline.shards.members.archives import TAR, Place, plain_tar, zip_files
from eyespot.data_pipeline.shards.members.class_names import classify, splits_of_tars
from eyespot.data_pipeline.shards.members.footage import FrameSource, Refused
from eyespot.data_pipeline.shards.members.frame_names import SOUNDS, frame_source, frames_of
from eyespot.data_pipeline.shards.members.items import Item, Source, array_items, hold_out
from eyespot.data_pipeline.shards.members.samples import (
    check_plain,
    frame_notes,
    look_like_frames,
    path_parts,
    samples_of,
    split_name,
    with_frames,
)
from eyespot.data_pipeline.shards.members.side_files import EXTENSIONS, Beside, of_one_sound, with_members
from eyespot.data_pipeline.shards.members.side_files import SUFFIXES as SIDE_SUFFIXES
from eyespot.data_pipeline.shards.members.skipped import Tally, hidden, no_image, printable
from eyespot.data_pipeline.shards.members.tar_members import Scan, scan
from eyespot.data_pipeline.terminal import plural

log = logging.getLogger("eyespot")

NAMED = ("digits", "falling-digits", "caltech10", "cifar10", "cifar100", "mnist", "fashion-mnist")
CALTECH10 = Path(__file__).with_name("caltech10.tar.gz")
"""2,000 photographs that come with the package; benchmarks/make_caltech10.py says how they were made."""
DOWNLOADS = Path("~/.cache/eyespot/downloads")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_IDX = re.compile(r"(train|t10k|test)-images[.-]idx3-ubyte(\.gz)?")


class FoundFile(NamedTuple):
    """One image file that was found."""

    name: str
    parts: tuple[str, ...]
    """Of the path that splits and classes are read off."""
    place: Place
    text: str | None = None
    """Of its label."""
    mask: Place | None = None
    split: str | None = None
    """Of the tar that it lies in."""
    frames: FrameSource | None = None
    """Where it is a sample of many; ``parts`` is then the path of the sample."""
    members: Beside = ()
    """What else belongs to it."""


def open_source(
    source: str,
    spool: Path,
    downloads: Path = DOWNLOADS,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
) -> Source:
    """Lists the images of a source.

    Args:
        source: one of ``NAMED``, or the path of a folder of images (with or without class folders, with or without
            train/test/val above them), of a tar (compressed or not) or zip of such a folder, of WebDataset tars, or of
            a folder of IDX files. A name wins over a path; write ./digits for a folder of that name.
        spool: an existing folder for what must be unpacked first.
        downloads: where torchvision's data sets are kept.
        reading: how to understand what can be understood in several ways. The files of a tar are WebDataset samples
            where it has labels or masks (.cls, .seg.png), or ``reading`` says what a sample is; else each image is one.

    Raises:
        UserError: there is no such source, no image in it, it cannot be read, or can be read in several ways.
    """
    if source == "digits":
        return _digits(spool)
    if source == "falling-digits":
        return open_falling_digits()
    if source == "caltech10":
        return _archive(CALTECH10, spool, reading)
    if source in _TORCHVISION:
        if source == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
            return _idx_folder(DEBIAN_FASHION_MNIST, source, FASHION_CLASSES, spool)
        return _torchvision(source, downloads.expanduser(), spool)
    path = Path(source).expanduser()
    if path.is_file():
        return _archive(path, spool, reading)
    if not path.is_dir():
        raise UserError(f"source {source}: no such file or folder, nor one of the names {', '.join(NAMED)}")
    if any(_IDX.fullmatch(entry.name) for entry in path.iterdir()):
        classes = FASHION_CLASSES if "fashion" in path.resolve().name.lower() else ()
        return _idx_folder(path, path.resolve().name, classes, spool)
    return _folder(path, spool, reading)


# ------------------------------------------------------------------------------------------ folders and tars


def how_to_shard(path: Path) -> str:
    """What a path that is no shard folder holds, and the command that makes shards of it."""
    if path.is_file():
        return f"it is a file, not a folder of shards; make one of it: eyespot shards pack {path} DST"
    seen = 0
    for folder, _, files in os.walk(path):
        if "manifest.json" in files and "index.npy" in files:
            inside = Path(folder)
            inside = inside.parent if inside.name in SPLITS and inside.parent != path else inside
            return f"name one of the data sets inside: {inside}"
        if any(name.endswith(".tar") for name in files):
            return f"index the tars that lie there: eyespot shards index {folder}"
        if any(os.path.splitext(name)[1].lower() in SUFFIXES | {".zip"} for name in files):  # noqa: PTH122
            return f"it holds images, not shards; write them as shards: eyespot shards pack {path} DST"
        if (seen := seen + len(files)) > 10_000:
            break
    return f"make shards with: eyespot shards pack SRC {path}"


def _folder(root: Path, spool: Path, reading: Reading) -> Source:
    files: list[FoundFile] = []
    tars: list[Path] = []
    skipped, others, sides = Tally(), list[str](), list[tuple[str, Place]]()
    wanted = SUFFIXES | {f".{sound}" for sound in SOUNDS if reading.frames not in (None, "none")}
    for name, path, size in walk(root, skipped):
        parts = path_parts(name)
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million times)
        if (reason := hidden(parts)) is not None:
            skipped.add(reason, name)
        elif suffix in wanted and size is None:
            skipped.add("a device, a pipe or the like", name)
        elif suffix in wanted and size is not None:
            files.append(FoundFile(name, parts, Place(path, 0, size)))
        elif TAR.search(name):
            tars.append(Path(path))
        elif suffix in SIDE_SUFFIXES and size is not None and reading.frames in (None, "none"):
            sides.append((name, Place(path, 0, size)))
        else:
            others.append(name)
    ours = {str(path.relative_to(root)) for tar in map(Path, tars) for path in _made_beside(tar)}
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
    return arrange(name, _joined(files, reading, skipped), f"source {root}", skipped, reading)


def _joined(files: list[FoundFile], reading: Reading, skipped: Tally) -> list[FoundFile]:
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
            samples.append(FoundFile(key, path_parts(key), Place("", 0, 0), frames=frames, members=beside))
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
        listed = zip_files(path, spool, skipped, also)
        sides = [(name, place) for name, place in listed if Path(name).suffix.lower() in also]
        images = [(name, place) for name, place in listed if Path(name).suffix.lower() not in also]
        files = [FoundFile(name, path_parts(name), place) for name, place in images]
        files = with_members(files, sides, skipped) if also else files
        return arrange(printable(path.stem), _joined(files, reading, skipped), f"source {path}", skipped, reading)
    return _tars(printable(TAR.sub("", path.name)), [path], None, spool, reading, Tally())


def _tars(name: str, tars: list[Path], root: Path | None, spool: Path, reading: Reading, skipped: Tally) -> Source:
    """All images of some tars; ``root`` is the folder that holds them, None = a single one was named."""
    shown = [str(tar.relative_to(root)) if root else tar.name for tar in tars]
    where = f"source {root or tars[0]}"
    splits = splits_of_tars(where, shown) if root else [None]
    plain = [plain_tar(tar, spool, number) for number, tar in enumerate(tars)]
    scans = [scan(path) for path in plain]
    for tar, found in zip(tars, scans, strict=True):
        if found.problem:
            raise UserError(f"source {tar}: {found.problem}; fetch the archive again")
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
    files: list[FoundFile] = []
    for tar, path, found, split in zip(shown, plain, scans, splits, strict=True):
        prefix = f"{printable(tar)}/" if root else ""
        skipped.add_all(found.skipped, prefix)
        read = (
            _samples(path, Path(tar), found, reading, skipped) if has_samples else _images(path, found, prefix, skipped)
        )
        files += [file._replace(name=f"{prefix}{file.name}", split=split) for file in read]
    source = arrange(name, files, where, skipped, reading)
    source.notes += frame_notes(sum(file.frames is not None for file in files), asked)
    return source


def _samples(path: Path, shown: Path, found: Scan, reading: Reading, skipped: Tally) -> list[FoundFile]:
    """The WebDataset samples of a tar."""
    files: list[FoundFile] = []
    for sample, text in samples_of(path, shown, found.files, reading, skipped):
        if image := sample.image:
            mask = sample.mask and Place(str(path), sample.mask.offset, sample.mask.size)
            place = Place(str(path), image.offset, image.size)
            frames = sample.footage(str(path), reading)
            members = sample.members_in(str(path))
            files.append(FoundFile(sample.name, sample.path, place, text, mask, frames=frames, members=members))
    return files


def _images(path: Path, found: Scan, prefix: str, skipped: Tally) -> list[FoundFile]:
    """Each image of a tar, which is that of a folder."""
    check_plain(path, found.files)
    files, sides = list[FoundFile](), list[tuple[str, Place]]()
    for name, offset, size in found.files:
        parts = path_parts(name)
        reason, suffix = hidden(parts), os.path.splitext(name)[1].lower()  # noqa: PTH122
        if reason is None and suffix in SIDE_SUFFIXES:
            sides.append((name, Place(str(path), offset, size)))
            continue
        if reason is None and suffix not in SUFFIXES:
            reason = no_image(name)
        if reason is None:
            files.append(FoundFile(name, parts, Place(str(path), offset, size)))
        else:
            skipped.add(reason, f"{prefix}{name}")
    return with_members(files, sides, skipped, prefix)


def arrange(name: str, files: list[FoundFile], where: str, skipped: Tally, reading: Reading) -> Source:
    """Reads splits and classes off the paths: [shared folders/][split/][class/...]image."""
    if not files:
        most = ", ".join(f"{one.count} {one.reason}" for one in skipped.listed()[:3])
        raise UserError(
            f"{where}: no image files inside"
            f" ({plural(skipped.total, 'other file')}{': ' * bool(most)}{most}); images end in"
            " .jpg, .png, .webp, ...; a folder of WebDataset tars is read in place: eyespot shards index"
        )
    files = sorted(files)
    parts, texts = [file.parts for file in files], [file.text for file in files]
    classes, labels, layout, notes = classify(parts, texts, reading.class_folder)
    items: dict[str, list[Item]] = {}
    for file, label, split in zip(files, labels, layout.splits, strict=True):
        split = split if file.split is None else file.split
        if split is None:
            skipped.add("outside the folders of the splits", file.name)
        else:
            items.setdefault(split, []).append(
                Item(printable(file.name), label, *file.place, None, file.mask, file.frames, file.members)
            )
    items = {split: of_one_sound(each, skipped) for split, each in items.items()}
    return Source(name=name, splits=items, classes=classes, skipped=skipped, notes=notes)


# ------------------------------------------------------------------------------------------------- arrays


def _digits(spool: Path) -> Source:
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    data: Any = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # the values are 0..16
    items = array_items(pixels, data.target, "digits", spool)
    train, test = hold_out(items, 0.2, seed=0)
    return Source(name="digits", splits={"train": train, "test": test}, classes=[str(digit) for digit in range(10)])


def _torchvision(name: str, downloads: Path, spool: Path) -> Source:
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, _TORCHVISION[name])
    items: dict[str, list[Item]] = {}
    classes: list[str] = []
    for split in ("train", "test"):
        try:
            data = make(downloads, train=split == "train", download=True)
        except Exception as error:  # URLError, RuntimeError, OSError, ...: whatever the network did
            text = " ".join(str(error).split())
            raise UserError(
                f"source {name}: neither in {downloads} nor to be downloaded ({text}); put torchvision's files there,"
                " name another folder with --downloads, or pack a folder or archive of images"
            ) from error
        classes = list(data.classes)
        items[split] = array_items(np.asarray(data.data), np.asarray(data.targets), split, spool)
    return Source(name=name, splits=items, classes=classes)


def _idx_folder(folder: Path, name: str, classes: Sequence[str], spool: Path) -> Source:
    """MNIST's own format: train-images-idx3-ubyte, train-labels-idx1-ubyte and so on, gzipped or not."""
    items: dict[str, list[Item]] = {}
    num_classes = 0
    for path in sorted(folder.iterdir()):
        if not (match := _IDX.fullmatch(path.name)):
            continue
        split = "train" if match[1] == "train" else "test"
        pixels = _read_idx(path)
        labels_path = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        labels = _read_idx(labels_path).astype(int) if labels_path.exists() else np.full(len(pixels), -1)
        if labels.shape != (len(pixels),) or pixels.ndim != 3:
            raise UserError(f"source {folder}: {path.name} and {labels_path.name} do not belong together")
        items[split] = array_items(pixels, labels, split, spool)
        num_classes = max(num_classes, int(labels.max(initial=-1)) + 1)
    if "train" not in items:
        items = {"": items["test"]}
    names = list(classes) if len(classes) >= num_classes else [str(label) for label in range(num_classes)]
    return Source(name=name, splits=items, classes=names)


def _read_idx(path: Path) -> np.ndarray:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        num_axes = data[3]
        shape = np.frombuffer(data, ">u4", num_axes, 4).astype(int)
        if data[:3] != b"\0\0\x08":
            raise ValueError("not IDX of unsigned bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"source {path}: not a whole IDX file ({error}); fetch it again") from error
