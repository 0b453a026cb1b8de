"""Which test split goes with an earlier train split: that to which nothing was added that train does not know."""

import shutil
from pathlib import Path

import pytest
from packed_parts import add, write_images

from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.paged.versions import additions
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def images_of(root: Path, count: int, first: int, classes: tuple[str, ...]) -> Path:
    for number, split in enumerate(("train", "test")):
        write_images(root / split, count, first=first + 500 * number, classes=classes)
    return root


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> tuple[Path, list[ShardFolder]]:
    """Train and test, to which images of a new class were added twice, and train as it was before each."""
    root = tmp_path_factory.mktemp("versions")
    pack(str(images_of(root / "images", 20, 0, ("a", "b"))), root / "shards", workers=1)
    found = [ShardFolder.find(root / "shards")]
    for number, name in enumerate("cd"):
        add(root / "shards", images_of(root / name, 8, 100 * (number + 1), (name, "a")))
        found.append(ShardFolder.find(root / "shards"))
    return root / "shards", found


def test_a_split_is_that_of_then(versions):
    root, found = versions
    counts = []
    for number, then in enumerate(found):
        again = ShardFolder.find(root, version=then.manifest_sha256)
        test = again.split("test")
        assert again.manifest == then.manifest and test is not None
        assert test.manifest.classes == then.manifest.classes and len(additions(test.manifest)) == number
        counts.append(test.manifest.num_samples)
        test.check()
    assert counts[0] < counts[1] < counts[2]
    newest = ShardFolder.find(root).split("test")
    assert newest is not None and newest.manifest.num_samples == counts[2]


def test_so_in_a_mixture(versions, digit_shards):
    root, found = versions
    text, then = f"{root}:0.5,{digit_shards}:0.5", found[0]
    old = find_shards(text, versions=(then.manifest_sha256, ShardFolder(digit_shards).manifest_sha256))
    test = old.split("test")
    assert test is not None and test.manifest.classes == old.manifest.classes
    assert old.manifest.classes != find_shards(text).manifest.classes
    assert find_shards(text, versions=(then.manifest_sha256,)).sources[0].manifest == found[-1].manifest  # of another


def test_a_split_that_alone_grew_is_its_newest(versions, tmp_path):
    root = shutil.copytree(versions[0], tmp_path / "shards")
    add(root / "test", write_images(tmp_path / "more", 8, 900))
    test = ShardFolder.find(root, version=versions[1][2].manifest_sha256).split("test")
    assert test is not None and test.manifest == ShardFolder(root / "test").manifest
