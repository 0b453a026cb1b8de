"""Where images come from: folders, tars, IDX files, torchvision's data sets, scikit-learn's digits -> lists of items.

An item says where its bytes lie; nothing is decoded here. What is compressed as a whole (a tar.gz, IDX in gzip) or only
exists as an array is first written once, plainly, into a spool folder, so that items can be read in any order.
"""

import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.random_numbers import uniforms
from eyespot.data_pipeline.shards.image_check import SUFFIXES, encode_png
from eyespot.data_pipeline.shards.tar_members import scan

NAMED = ("digits", "cifar10", "cifar100", "mnist", "fashion-mnist")
DOWNLOADS = Path("~/.cache/eyespot/downloads")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SPLIT_FOLDERS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_IDX = re.compile(r"(train|t10k|test)-images[.-]idx3-ubyte(\.gz)?")
_ARCHIVE = re.compile(r"(\.tar)?(\.(gz|bz2|xz|tgz|zst))?$|\.tgz$")


class Place(NamedTuple):
    """Where the bytes of a file lie."""

    path: str
    offset: int
    size: int
    """Bytes; -1 = there is no such file."""

    def read(self) -> bytes:
        """The bytes."""
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123 (a million times: no Path for each)
            return os.pread(file.fileno(), self.size, self.offset)


class Item(NamedTuple):
    """One image of the source and where its bytes lie."""

    name: str
    """Its path inside the source; ends up in the shards so that a sample can be traced back."""
    label: int
    """Index into the source's classes; -1 = none."""
    path: str
    """The file that holds the bytes."""
    offset: int
    size: int
    """Bytes."""
    shape: tuple[int, ...] | None = None
    """(H, W) or (H, W, 3) where the bytes are raw pixels; None = an image file."""
    mask: Place | None = None
    """Of its segmentation mask."""


@dataclass(kw_only=True, slots=True)
class Source:
    """Everything that is to be packed."""

    name: str
    splits: dict[str, list[Item]]
    """By split; the only key is "" where the source has no splits. Items are sorted by name."""
    classes: list[str] = field(default_factory=list)
    skipped: int = 0
    """Files that are not named like images, or lie outside the split folders."""


def open_source(source: str, spool: Path, downloads: Path = DOWNLOADS) -> Source:
    """Lists the images of a source.

    Args:
        source: "digits", "cifar10", "cifar100", "mnist", "fashion-mnist", or the path of a folder of images (with or
            without class folders, with or without train/test/val above them), of a tar (compressed or not) of such a
            folder, or of a folder of IDX files. A name wins over a path; write ./digits for a folder of that name.
        spool: an existing folder for what must be unpacked first.
        downloads: where torchvision's data sets are kept.

    Raises:
        UserError: there is no such source, no image in it, or it cannot be read.
    """
    if source == "digits":
        return _digits(spool)
    if source in _TORCHVISION:
        if source == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
            return _idx_folder(DEBIAN_FASHION_MNIST, source, FASHION_CLASSES, spool)
        return _torchvision(source, downloads.expanduser(), spool)
    path = Path(source).expanduser()
    if path.is_file():
        return _tar(path, spool)
    if not path.is_dir():
        raise UserError(f"source {source}: no such file or folder, nor one of the names {', '.join(NAMED)}")
    if any(_IDX.fullmatch(entry.name) for entry in path.iterdir()):
        classes = FASHION_CLASSES if "fashion" in path.resolve().name.lower() else ()
        return _idx_folder(path, path.resolve().name, classes, spool)
    return _folder(path)


def read_item(item: Item) -> bytes:
    """The bytes of an image file; raw pixels come as PNG."""
    data = Place(item.path, item.offset, item.size).read()
    return data if item.shape is None else encode_png(data, item.shape)


def hold_out(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Splits items into (train, test) so that ``share`` of each class lands in test; seeded, order kept.

    Every class of two or more items keeps at least one on either side.
    """
    labels = np.array([item.label for item in items], np.int64)
    held = np.zeros(len(items), bool)
    priority = shuffled(len(items), seed, "holdout")
    for label in np.unique(labels):
        members = priority[labels[priority] == label]
        count = min(max(round(len(members) * share), 1), len(members) - 1)
        held[members[:count]] = True
    return (
        [item for item, out in zip(items, held, strict=True) if not out],
        [item for item, out in zip(items, held, strict=True) if out],
    )


def shuffled(count: int, seed: int, stream: str) -> np.ndarray:
    """A permutation of range(count) that no library's next version changes: sorted by counter-based draws."""
    draws = uniforms(seed, np.zeros(count, np.int64), np.arange(count), stream, 2)
    return np.lexsort((draws[:, 1], draws[:, 0]))


# ------------------------------------------------------------------------------------------ folders and tars


def _folder(root: Path) -> Source:
    def unreadable(error: OSError) -> None:
        raise UserError(f"source {error.filename}: {error.strerror}; make it readable") from error

    def walk() -> Iterator[tuple[str, str, int, int]]:
        seen: set[str] = set()
        for folder, subfolders, files in os.walk(root, onerror=unreadable, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back up
                subfolders.clear()
                continue
            seen.add(real)
            subfolders.sort()
            for name in files:
                path = os.path.join(folder, name)  # noqa: PTH118
                size = os.stat(path).st_size if os.path.exists(path) else 0  # noqa: PTH110, PTH116 (a dead link)
                yield os.path.relpath(path, root), path, 0, size

    return _arrange(root.resolve().name, walk(), f"source {root}")


def _tar(path: Path, spool: Path) -> Source:
    name = _ARCHIVE.sub("", path.name)
    where = f"source {path}"
    if not tarfile.is_tarfile(path):
        raise UserError(f"{where}: neither a folder nor a tar archive (.tar, .tar.gz, .tar.bz2, .tar.xz)")
    plain = path
    try:
        with tarfile.open(path, "r:"):
            pass
    except tarfile.ReadError:
        plain = _unpack(path, spool / "source.tar")
    members = scan(plain)
    if members.problem:
        raise UserError(f"{where}: {members.problem}; fetch the archive again")
    if any(member.name.endswith(".cls") for member in members.files):
        raise UserError(f"{where}: holds WebDataset samples (.cls members); use it in place: eyespot shards index")
    return _arrange(name, ((name, str(plain), offset, size) for name, offset, size in members.files), where)


def _unpack(path: Path, target: Path) -> Path:
    """Decompresses a tar.gz, tar.bz2 or tar.xz once, so that its members can be read in any order."""
    with tarfile.open(path, "r:*") as archive, target.open("wb") as file:
        stream: Any = archive.fileobj  # decompressed, not yet parsed
        stream.seek(0)
        while True:
            try:
                block = stream.read(1 << 20)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise UserError(f"source {path}: damaged archive ({error}); fetch it again") from error
            if not block:
                return target
            file.write(block)


def _arrange(name: str, files: Iterator[tuple[str, str, int, int]], where: str) -> Source:
    """Reads splits and classes off the paths: [shared folders/][split/][class/...]image."""
    found: list[tuple[tuple[str, ...], tuple[str, str, int, int]]] = []
    skipped = 0
    for entry in files:
        parts = PurePosixPath(entry[0]).parts
        if any(part.startswith(".") for part in parts) or "__MACOSX" in parts:
            continue
        if PurePosixPath(entry[0]).suffix.lower() in SUFFIXES:
            found.append((parts, entry))
        else:
            skipped += 1
    if not found:
        raise UserError(
            f"{where}: no image files inside ({skipped} other files); images end in .jpg, .png, .webp, ...;"
            " a folder of WebDataset tars is read in place: eyespot shards index"
        )
    depth = _shared_depth([parts for parts, _ in found])
    tops = {parts[depth] for parts, _ in found if len(parts) > depth + 1}
    splits = {top: SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    if "train" not in splits.values() or (len(splits) == 1 and len(tops) > 1):
        splits = {}  # a class may be called train
    elif "test" not in splits.values():  # what a source calls val is what we test on
        splits = {top: "train" if split == "train" else "test" for top, split in splits.items()}
    placed = [(splits.get(parts[depth], ""), parts[depth + bool(splits) :], entry) for parts, entry in found]
    kept = [place for place in placed if place[0] or not splits]
    classes = sorted({_printable(parts[0]) for _, parts, _ in kept if len(parts) > 1})
    labels = {label: number for number, label in enumerate(classes)}
    items: dict[str, list[Item]] = {}
    for split, parts, (path, file, offset, size) in sorted(kept, key=lambda place: place[2][0]):
        label = labels[_printable(parts[0])] if len(parts) > 1 else -1
        items.setdefault(split, []).append(Item(_printable(path), label, file, offset, size))
    return Source(name=name, splits=items, classes=classes, skipped=skipped + len(placed) - len(kept))


def _shared_depth(paths: list[tuple[str, ...]]) -> int:
    """How many leading folders all paths share; a shared folder tells nothing, unless it names the split."""
    first = paths[0]
    depth = 0
    while (
        depth < len(first) - 1
        and first[depth].lower() not in SPLIT_FOLDERS
        and all(len(parts) > depth + 1 and parts[depth] == first[depth] for parts in paths)
    ):
        depth += 1
    return depth


def _printable(name: str) -> str:
    """A file name as valid Unicode; bytes that are none are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# ------------------------------------------------------------------------------------------------- arrays


def _digits(spool: Path) -> Source:
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    data: Any = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # the values are 0..16
    items = _array_items(pixels, data.target, "digits", spool)
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
        items[split] = _array_items(np.asarray(data.data), np.asarray(data.targets), split, spool)
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
        items[split] = _array_items(pixels, labels, split, spool)
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


def _array_items(pixels: np.ndarray, labels: np.ndarray, name: str, spool: Path) -> list[Item]:
    """Writes (N, H, W[, 3]) uint8 pixels into the spool; one item per image."""
    path = spool / f"{name}.raw"
    path.write_bytes(np.ascontiguousarray(pixels, np.uint8).tobytes())
    shape = tuple(pixels.shape[1:])
    size = int(np.prod(shape))
    return [
        Item(f"{name}/{row:06d}", int(label), str(path), row * size, size, shape) for row, label in enumerate(labels)
    ]
