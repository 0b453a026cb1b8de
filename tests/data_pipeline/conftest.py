"""Small shard folders, packed once per test run."""

import tarfile
from pathlib import Path

import pytest
from films import pack_films
from shapes import draw_striped

from eyespot.data_pipeline.shards.pack import pack


@pytest.fixture(scope="session")
def digit_shards(tmp_path_factory) -> Path:
    """1,438 real digits, 8x8 pixels, in 12 tars; runs anywhere."""
    folder = tmp_path_factory.mktemp("digits")
    pack("digits", folder, max_samples=120, workers=1)
    return folder / "train"


@pytest.fixture(scope="session")
def photo_folder(real_data, tmp_path_factory) -> Path:
    """About 300 real photographs of many sizes, in class folders."""
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(real_data / "caltech10-images.tar") as tar:
        members = [member for member in tar if member.isfile()][::9]
        tar.extractall(folder, members, filter="data")
    return folder


@pytest.fixture(scope="session")
def photo_shards(photo_folder, tmp_path_factory) -> Path:
    """The photographs in 8 tars."""
    folder = tmp_path_factory.mktemp("photo-shards")
    pack(str(photo_folder), folder, max_samples=40, workers=1)
    return folder


@pytest.fixture(scope="session")
def striped(tmp_path_factory) -> tuple[Path, Path]:
    """Twelve pictures and their masks."""
    return draw_striped(tmp_path_factory.mktemp("striped"), 12)


@pytest.fixture
def packed(striped, tmp_path) -> Path:
    """They in three shards."""
    images, masks = striped
    pack(str(images), tmp_path / "shards", masks=masks, max_samples=5, workers=1)
    return tmp_path / "shards"


@pytest.fixture(scope="session")
def film_shards(tmp_path_factory) -> Path:
    """24 films of two cameras, 1 to 30 frames each, with masks of two frames in three."""
    return pack_films(tmp_path_factory.mktemp("films") / "shards")
