"""Shard folders in a real store against their manifests: all well, and every kind of damage is a line that names it."""

import shutil

import numpy as np
import pytest

from eyespot.data_pipeline.shards.remote.verify import folders_in_store, look_at_store
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.split_overlap import shared
from eyespot.data_pipeline.stores.location import location_of


@pytest.fixture(scope="module")
def uploaded(store_server, digits):
    return location_of(store_server.put_folder(digits, "verified"))


def test_all_is_well(uploaded, faults, digits):
    assert [str(one) for one in folders_in_store(uploaded)] == ["s3://data/verified/test", "s3://data/verified/train"]
    found = look_at_store(uploaded)
    assert not found.problems and not found.unreadable and found.sound == found.folders
    assert faults.counts["bytes"] > sum(path.stat().st_size for path in digits.rglob("*.tar")), "every byte was read"
    assert shared(ShardFolder(uploaded / "train"), ShardFolder(uploaded / "test")) is None


def test_damage(store_server, faults, digits, tmp_path):
    shards = ShardFolder(shutil.copytree(digits / "test", tmp_path / "test"))
    place = location_of(store_server.put_folder(shards.path, "damaged"))
    tar = bytearray((digits / "test" / "shard-000000.tar").read_bytes())
    row = shards.index[7]
    tar[int(row["offset"]) + 20] ^= 1
    store_server.put("damaged/shard-000000.tar", bytes(tar))
    found = look_at_store(place).problems
    assert found == [
        "s3://data/damaged/shard-000000.tar: changed since it was packed (sha256 differs from the manifest's);"
        " upload it again",
        f"s3://data/damaged/shard-000000.tar: sample 7 (offset {row['offset']}) differs from what was packed (crc32);"
        " upload the tar again",
    ]
    store_server.put("damaged/shard-000000.tar", bytes(tar[:-512]))
    store_server.put("damaged/stranger.tar", b"x")
    one, other = look_at_store(place).problems
    assert "stranger.tar: not in the manifest" in one and "truncated" in other
    store_server.delete("damaged/shard-000000.tar")
    assert any("shard-000000.tar: missing" in line for line in look_at_store(place).problems)
    store_server.put("damaged/index.npy", b"\x93NUMPY broken")
    (line,) = look_at_store(place).problems
    assert line.startswith("s3://data/damaged/index.npy: unreadable")


def test_nothing_there(store_server, faults):
    (line,) = look_at_store(location_of("s3://data/nothing-here")).problems
    assert line.startswith("s3://data/nothing-here: no shards inside; upload")


def test_a_shard_folder_in_a_store_is_that_on_the_disk(uploaded, faults, digits):
    near, far = ShardFolder.find(digits), ShardFolder.find("s3://data/verified")
    assert far.is_remote and far.is_split and far.path.name == "train" and far.manifest_sha256 == near.manifest_sha256
    assert np.array_equal(near.index, far.index)
    far.check()
    other, near_other = far.split("test"), near.split("test")
    assert other is not None and near_other is not None and np.array_equal(other.index, near_other.index)
    assert far.split("none") is None
    tar, offset, size = near.index[["tar", "offset", "size"]][5].item()
    assert far.read_tar(tar, offset, size) == near.read_tar(tar, offset, size)
    assert far.is_named("s3://data/verified/") and not far.is_named(str(digits)) and not far.is_named(None)
