"""Images added later: old ones keep what they have, an older manifest keeps its rows, a kill leaves it all whole."""

import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from packed_parts import add, content, killed_at, write_images

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.addition import ADDING, Addition
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import look_at, verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old: 40 images of the classes a and b; more: 12 others of b and c, and 6 of the old ones; packed: of old."""
    root = tmp_path_factory.mktemp("addition")
    write_images(root / "old", 40)
    write_images(root / "more", 12, first=50, classes=("c", "b"))
    for path in sorted((root / "old").rglob("1?.jpg"))[:6]:
        shutil.copy(path, root / "more" / "b" / f"again{path.name}")
    pack(str(root / "old"), root / "packed", workers=1, max_samples=15)
    return root


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder / "packed", tmp_path / "shards")


def test_the_old_samples_stay_and_new_ones_follow(folder: Path, shards: Path):
    before, files = ShardFolder(shards), content(shards)
    old = before.index.copy()
    (added,) = add(shards, folder / "more", max_samples=5).values()
    now = ShardFolder(shards)
    assert now.manifest == added and now.manifest.classes == ["a", "b", "c"]
    assert np.array_equal(now.index[: len(old)], old)
    assert now.manifest.num_samples == len(old) + 13  # 12, and one that was converted
    assert now.index["tar"].max() == len(now.manifest.shards) - 1 > before.manifest.shards.__len__()
    reasons = [bad["reason"] for bad in added.quarantined if "again" in bad["source"]]
    assert len(reasons) == 6 and all(reason.startswith("there already: the same bytes as sample") for reason in reasons)
    (entry,) = added.packing["added"]
    assert (entry["duplicates"], entry["first_id"], entry["num_samples"]) == (6, len(old), 13)
    kept = {name: digest for name, digest in content(shards).items() if name in files}
    changed = {name for name, digest in kept.items() if digest != files[name]}
    assert changed == {"index.npy", "manifest.json", "members/txt.npy"}
    assert verify(shards) == [] and not (shards / ADDING).exists()
    named = sorted(path.name for path in shards.glob("manifest-*.json"))
    digests = (before.manifest_sha256, now.manifest_sha256)
    assert named == sorted(f"manifest-{digest[:12]}.json" for digest in digests)


def test_an_older_manifest_describes_the_first_rows(folder: Path, shards: Path):
    before = ShardFolder(shards)
    index, captions = before.index.copy(), before.member("txt").copy()
    for number in range(2):
        add(shards, write_images(shards.parent / f"more{number}", 60, first=100 * (number + 1)))
    newest = ShardFolder(shards)
    found = ShardFolder(shards, version=before.manifest_sha256)
    assert found.manifest_sha256 == before.manifest_sha256 and found.manifest == before.manifest
    assert np.array_equal(found.index, index) and np.array_equal(found.member("txt"), captions)
    assert np.array_equal(newest.index[: len(index)], index) and len(newest.index) > 3 * len(index)
    found.check()
    for unknown in ("f" * 64, "../../x", ""):
        assert ShardFolder(shards, version=unknown).manifest_sha256 == newest.manifest_sha256
    (shards / f"manifest-{before.manifest_sha256[:12]}.json").write_text("{}")  # not what it is called
    assert ShardFolder(shards, version=before.manifest_sha256).manifest_sha256 == newest.manifest_sha256
    rows = np.load(shards / "index.npy")
    rows["crc32"][0] ^= 1
    np.save(shards / "index.npy", rows)
    (shards / "manifest.json").write_text(before.manifest.to_json())
    with pytest.raises(UserError, match="changed since it was written"):
        _ = ShardFolder(shards).index


def test_statistics_are_those_of_all_images(folder: Path, shards: Path):
    add(shards, folder / "more")
    assert verify(shards) == []  # which computes them anew
    told = ShardFolder(shards).manifest.image_stats
    before = ShardFolder(folder / "packed").manifest.image_stats
    assert told.mean != before.mean and told.std != before.std


def test_the_same_once_more_adds_nothing(folder: Path, shards: Path):
    add(shards, folder / "more")
    files = content(shards)
    add(shards, folder / "more")
    assert content(shards) == files
    with pytest.raises(UserError, match=r"holds nothing new for .*; .*: there already"):
        add(shards, folder / "old", seed=9)
    assert content(shards) == files


def test_a_kill_before_any_rename_leaves_a_whole_folder(folder: Path, tmp_path: Path):
    whole = shutil.copytree(folder / "packed", tmp_path / "whole")
    before = ShardFolder(whole)
    add(whole, folder / "more", max_samples=4)
    after = ShardFolder(whole)
    killed, seen = 0, set[str]()
    for rename in range(1, 100, 5):
        root = shutil.copytree(folder / "packed", tmp_path / f"killed-{rename}")
        if not killed_at(rename, add, root, folder / "more", max_samples=4):
            break
        killed += 1
        found = ShardFolder(root)
        found.check()
        assert found.manifest_sha256 in (before.manifest_sha256, after.manifest_sha256)
        seen.add(found.manifest_sha256)
        told = look_at(root, 1)
        assert told.problems == [] and any("adding to it was not finished" in note for note in told.notes)
        add(root, folder / "more", max_samples=4)
        assert content(root) == content(whole)
        shutil.rmtree(root)
    assert killed > 3 and before.manifest_sha256 in seen


def test_two_at_once(folder: Path, shards: Path):
    (shards / ADDING / ".packing").mkdir(parents=True)
    with (shards / ADDING / ".packing" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another eyespot shards pack is writing there"):
            add(shards, folder / "more")


def test_another_source_waits_until_the_first_is_done(folder: Path, shards: Path):
    assert killed_at(14, add, shards, folder / "more", max_samples=4)
    with pytest.raises(UserError, match=r"an unfinished pack of another source .*rm -r .*\.adding"):
        add(shards, folder / "old", seed=4)
    add(shards, folder / "more", max_samples=4)


def test_splits_are_added_to_splits(folder: Path, tmp_path: Path):
    pack(str(folder / "old"), tmp_path / "shards", workers=1, holdout=0.3)
    for split in ("train", "test"):
        write_images(tmp_path / "more" / split, 5, first=60 if split == "train" else 80)
    manifests = add(tmp_path / "shards", tmp_path / "more")
    assert [len(manifests[split].packing["added"]) for split in ("test", "train")] == [1, 1]
    assert verify(tmp_path / "shards") == []
    with pytest.raises(UserError, match="it has no splits; name one of those"):
        add(tmp_path / "shards", folder / "more")
    (tmp_path / "shards" / ADDING).mkdir()  # of an addition to both
    with pytest.raises(UserError, match=r"images are being added to .*shards; finish that first"):
        add(tmp_path / "shards" / "train", folder / "more")
    (tmp_path / "shards" / ADDING).rmdir()
    (now,) = add(tmp_path / "shards" / "train", folder / "more").values()
    assert now.classes == ["a", "b", "c"]
    (tmp_path / "shards" / "train" / ADDING).mkdir()
    write_images(tmp_path / "again" / "train", 5, first=90, classes=("b", "d"))
    write_images(tmp_path / "again" / "test", 5, first=100)
    with pytest.raises(UserError, match=r"images are being added to .*train; finish that first"):
        add(tmp_path / "shards", tmp_path / "again")
    (tmp_path / "shards" / "train" / ADDING).rmdir()
    manifests = add(tmp_path / "shards", tmp_path / "again")
    assert {tuple(manifest.classes) for manifest in manifests.values()} == {("a", "b", "c", "d")}
    assert verify(tmp_path / "shards") == []


def test_what_cannot_be_added_to(folder: Path, shards: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no shards there to add to"):
        Addition(tmp_path / "nowhere")
    with pytest.raises(UserError, match="samples of many frames cannot be added"):
        add(shards, "falling-digits")
    assert not (shards / ADDING).exists()
    fields = json.loads((shards / "manifest.json").read_text())
    fields["reading"] = {}
    (shards / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="were not written by eyespot shards pack"):
        Addition(shards)
