import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from relabelled import rewrite_labels

from eyespot.cluster.doctor import shards
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture
def folder(digits, tmp_path) -> Path:
    return shutil.copytree(digits / "train", tmp_path / "shards")


def check(make_context, folder, which=shards.agreement, **fields):
    data = {
        "shards": str(folder),
        "batch_size": fields.pop("batch_size", 64),
        "accumulate": fields.pop("accumulate", 1),
    }
    data |= {name: fields.pop(name) for name in ("lanes", "shuffle_window", "ids") if name in fields}
    findings = list(which(make_context(values={"data": data}, **fields)))
    assert len(findings) == 1
    return findings[0]


def test_good_shards(make_context, folder):
    finding = check(make_context, folder)
    assert finding.level == "ok"
    assert finding.found.startswith("1,438 samples in 1 tar: all there")
    assert check(make_context, folder.parent / "shards").level == "ok"


def test_a_mixture_is_looked_at_source_by_source(make_context, folder, digits):
    mixture = f"{folder}:0.7,{digits / 'test'}:0.3"
    assert check(make_context, mixture).found.startswith("1,797 samples in 2 tars: all there")
    values = {"data": {"shards": mixture, "batch_size": 64, "accumulate": 1}}
    mixing = [finding.found for finding in shards.mixing(make_context(values=values))]
    assert [words.split(" holds")[0] for words in mixing] == [
        f"a batch of 45 of {folder}",
        f"a batch of 19 of {digits / 'test'}",
    ]
    os.truncate(folder / "shard-000000.tar", 512)
    assert check(make_context, mixture).found.startswith(f"{folder / 'shard-000000.tar'}: 512 bytes")
    assert check(make_context, f"{folder}:0.7,{folder}:0.3").level == "fail"


def test_a_short_tar_and_a_missing_one(make_context, folder):
    tar = folder / "shard-000000.tar"
    os.truncate(tar, 512)
    finding = check(make_context, folder)
    assert finding.level == "fail"
    assert finding.found.startswith(f"{tar}: 512 bytes where the manifest says")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"].append({**manifest["shards"][0], "tar": "shard-000001.tar"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    tar.unlink()
    assert check(make_context, folder).found == f"{tar}: missing (and 1 more)"


def test_no_shards_at_all(make_context, tmp_path):
    finding = check(make_context, tmp_path / "nothing")
    assert finding.level == "fail"
    assert "no such folder" in finding.found
    assert "eyespot shards pack" in finding.fix


def test_an_index_of_other_shards(make_context, folder):
    data = bytearray((folder / "index.npy").read_bytes())
    data[-20] ^= 1
    (folder / "index.npy").write_bytes(data)
    finding = check(make_context, folder)
    assert finding.level == "fail"
    assert "index.npy: changed since it was written" in finding.found
    assert "eyespot shards index" in finding.fix


def test_a_record_that_is_not_what_the_index_says(make_context, folder):
    index = ShardFolder(folder).index
    with (folder / "shard-000000.tar").open("r+b") as tar:
        tar.seek(int(index["offset"][-1]))
        tar.write(b"spoiled")
    finding = check(make_context, folder)
    assert finding.level == "fail"
    assert "shard-000000.tar: sample 1437 is not what was packed" in finding.found


def test_read_speed(make_context, folder, monkeypatch):
    assert "MB/s" in check(make_context, folder, shards.read_speed).found
    monkeypatch.setattr(shards, "LEAST_BYTES", 1)
    monkeypatch.setattr(shards, "SLOW_BYTES_PER_SECOND", 1e15)
    slow = check(make_context, folder, shards.read_speed)
    assert slow.level == "warn"
    assert slow.found.endswith("for 1 process")


@pytest.mark.parametrize(
    ("nodes", "batch_size", "accumulate", "level", "words"),
    [
        (2, 64, 1, "ok", "1,438 for 2 ranks x 32 images at once"),
        (2, 2000, 1, "fail", "1,438 samples are too few for 2 ranks x 1,000 images at once"),
        (2, 2000, 2, "ok", "1,438 for 2 ranks x 500 images at once"),
        (3, 64, 1, "fail", "a batch of 64 cannot be dealt to 3 ranks x 1 micro-batch"),
        (4, 64, 32, "fail", "a batch of 64 cannot be dealt to 4 ranks x 32 micro-batches"),
    ],
)
def test_enough_samples_for_the_ranks(make_context, folder, nodes, batch_size, accumulate, level, words):
    finding = check(make_context, folder, shards.enough, nodes=nodes, batch_size=batch_size, accumulate=accumulate)
    assert (finding.level, finding.found) == (level, words)


def test_of_chosen_samples_those_alone_are_counted(make_context, folder, tmp_path):
    (ids := tmp_path / "ids.txt").write_text("0\n1\n2\n")
    finding = check(make_context, folder, shards.enough, nodes=1, batch_size=64, accumulate=1, ids=str(ids))
    assert finding.found == "3 samples are too few for 1 rank x 64 images at once"
    ids.write_text("0\n9999\n")
    finding = check(make_context, folder, shards.enough, nodes=1, batch_size=2, accumulate=1, ids=str(ids))
    assert finding.level == "fail" and finding.found.startswith(f"data.ids {ids}: names 9999, and the samples of ")


def test_lanes_that_the_batch_cannot_be_dealt_to(make_context, folder):
    """A resumed run has the lanes of its own first micro-batch."""
    finding = check(make_context, folder, shards.enough, lanes=7)
    assert finding.level == "fail"
    assert finding.found == "data.lanes 7: must divide the micro-batch, 64 over all ranks"
    assert finding.fix == "for instance 4"


def test_tars_that_are_sorted_by_class(make_context, folder):
    assert check(make_context, folder, shards.mixing).level == "ok"
    rewrite_labels(folder, np.sort)
    finding = check(make_context, folder, shards.mixing, shuffle_window=256)
    assert finding.level == "warn"
    assert re.fullmatch(r"a batch of 64 holds \d classes, where a shuffle has 10", finding.found)
    lanes = int(re.match(r"set --data\.lanes (\d+) \(then \d+, \d+%\), or widen --data\.shuffle-w", finding.fix)[1])
    assert check(make_context, folder, shards.mixing, shuffle_window=256, lanes=lanes).level == "ok"


def test_sizes_that_are_not_the_images(make_context, folder):
    """Manifest and index agree; DALI would crash over it."""
    rows, manifest = np.load(folder / "index.npy"), json.loads((folder / "manifest.json").read_text())
    rows["height"][0] = 300
    np.save(folder / "index.npy", rows)
    manifest["index_sha256"] = hashlib.sha256((folder / "index.npy").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    finding = check(make_context, folder)
    assert finding.level == "fail"
    assert finding.found.endswith("sample 0 has (height, width) (8, 8), not (300, 8) as the index says")


def test_a_file_system_that_does_not_answer(make_context, folder, monkeypatch):
    monkeypatch.setattr(shards, "PATIENCE_SECONDS", 0.1)
    real = os.open

    def away(path, *rest, **named):
        if str(path).endswith("manifest.json"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", away)
    finding = check(make_context, folder)
    assert finding.level == "fail"
    assert "manifest.json: cannot be read for 0 s (Stale file handle)" in finding.found
    assert finding.fix == "see to the file system, and start again"
    for which in (shards.read_speed, shards.enough, shards.mixing):
        assert not list(which(make_context(values={"data": {"shards": str(folder), "batch_size": 8, "accumulate": 1}})))


def test_shards_in_a_store(make_context, folder, store_server, faults):
    place = store_server.put_folder(folder, "doctor")
    assert check(make_context, place).found.startswith("1,438 samples in 1 tar: all there")
    assert check(make_context, place, shards.read_speed).level == "ok"
    assert check(make_context, place, shards.enough).level == "ok"
    faults.inject("denied", keys=".tar")
    finding = check(make_context, place)
    assert finding.level == "fail" and finding.found == f"{place}/shard-000000.tar: denied (403 AccessDenied)"
    assert finding.fix.startswith("ask its owner for access")
    store_server.delete("doctor/shard-000000.tar")
    finding = check(make_context, place)
    assert finding.found == f"shards {place}/shard-000000.tar: is missing" and finding.fix.startswith("copy it again")
