"""Arrays become the right items, splits and labels."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.items import Source, read_item
from eyespot.data_pipeline.shards.sources import open_source


def write_idx(path: Path, array: np.ndarray) -> None:
    data = (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, suffix: str) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = {"train": rng.integers(0, 256, (30, 5, 6)), "t10k": rng.integers(0, 256, (10, 5, 6))}
    for split, images in pixels.items():
        write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", np.arange(len(images)) % 10)
    return pixels


def check_mnist(source: Source, pixels: dict[str, np.ndarray]) -> None:
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 30, "test": 10}
    for split, name in (("train", "train"), ("test", "t10k")):
        for row, item in enumerate(source.splits[split]):
            assert item.label == row % 10
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(read_item(item)))), pixels[name][row])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path: Path, suffix: str):
    pixels = write_mnist(tmp_path / "fashion-mnist", suffix)
    source = open_source(str(tmp_path / "fashion-mnist"), tmp_path)
    check_mnist(source, pixels)
    assert source.classes[-1] == "Ankle boot"


def test_a_cut_idx_file_is_refused(tmp_path: Path):
    write_mnist(tmp_path / "mnist", "")
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="train-images"):
        open_source(str(tmp_path / "mnist"), tmp_path)


def test_a_torchvision_set_from_its_local_copy(tmp_path: Path):
    pixels = write_mnist(tmp_path / "downloads" / "MNIST" / "raw", "")
    source = open_source("mnist", tmp_path, tmp_path / "downloads")
    check_mnist(source, pixels)
    assert len(source.classes) == 10


def test_a_torchvision_set_that_cannot_be_had(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cifar10.*--downloads") as caught:
        open_source("cifar10", tmp_path, tmp_path / "file" / "downloads")
    assert "\n" not in str(caught.value)


def test_digits_are_the_real_ones_in_a_stratified_split(tmp_path: Path):
    source = open_source("digits", tmp_path)
    truth = load_digits()
    sizes = {split: len(items) for split, items in source.splits.items()}
    assert sum(sizes.values()) == 1797 and abs(sizes["test"] / 1797 - 0.2) < 0.005
    seen = set()
    for items in source.splits.values():
        counts = np.bincount([item.label for item in items])
        assert counts.max() - counts.min() <= 12
        for item in items:
            row = int(item.name.rpartition("/")[2])
            seen.add(row)
            assert item.label == truth.target[row]
            pixels = np.asarray(Image.open(io.BytesIO(read_item(item)))).astype(float)
            assert np.abs(pixels * 16 / 255 - truth.images[row]).max() < 0.05
    assert len(seen) == 1797
