"""Sources that are arrays: scikit-learn's digits, torchvision's sets, IDX files; raw pixels go into the spool."""

import gzip
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.items import Item, Source, array_items, hold_out

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
IDX = re.compile(r"(train|t10k|test)-images[.-]idx3-ubyte(\.gz)?")


def digits(spool: Path) -> Source:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, a fifth of them held out."""

    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    data: Any = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # the values are 0..16
    items = array_items(pixels, data.target, "digits", spool)
    train, test = hold_out(items, 0.2, seed=0)
    return Source(name="digits", splits={"train": train, "test": test}, classes=[str(digit) for digit in range(10)])


def torchvision_set(name: str, downloads: Path, spool: Path) -> Source:
    """One of ``TORCHVISION``, downloaded where it is not there.

    Raises:
        UserError: it cannot be had.
    """
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, TORCHVISION[name])
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
    return Source(name=name, splits=dict(items), classes=classes)


def idx_folder(folder: Path, name: str, classes: Sequence[str], spool: Path) -> Source:
    """MNIST's own format: train-images-idx3-ubyte, train-labels-idx1-ubyte and so on, gzipped or not.

    Raises:
        UserError: a file is cut, or does not belong to the others.
    """
    items: dict[str, list[Item]] = {}
    num_classes = 0
    for path in sorted(folder.iterdir()):
        if not (match := IDX.fullmatch(path.name)):
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
    return Source(name=name, splits=dict(items), classes=names)


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
