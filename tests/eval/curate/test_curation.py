"""A curation's folder answers one question, tells of what, and is what --data.ids takes."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate.curation import (
    Encoder,
    Question,
    digest_of_ids,
    images_in,
    samples_to_choose_from,
    write_answer,
)
from eyespot.pretrain.config import DataConfig
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.run_data import chosen_ids

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def provenance(folder):
    return json.loads((folder / "provenance.json").read_text())


def question(shards, out, **changes):
    known = {"verb": "balance", "start": np.arange(9), "cache": None, "world": ALONE, "seed": 0, "settings": {"k": 3}}
    return Question(shards=shards, out=out, **{**known, **changes})


def test_ids_and_provenance(planted, tmp_path):
    shards, *_ = planted
    asked = question(shards, tmp_path / "out")
    asked.begin()
    kept = np.array([0, 3, 8])
    table = (("sample", "class"), [(3, 'a "b",\n')])
    write_answer(asked, kept, dropped={"picture": 6}, told={"more": 1}, table=table)
    data = DataConfig(shards=str(shards.path), ids=tmp_path / "out" / "ids.txt")
    assert chosen_ids(data, shards).tolist() == [0, 3, 8]
    told = provenance(tmp_path / "out")
    assert (told["looked_at"], told["kept"], told["dropped"], told["more"]) == (9, 3, {"picture": 6}, 1)
    assert told["shards"]["manifest_sha256"] == shards.manifest_sha256 and told["settings"] == {"k": 3}
    assert told["ids_sha256"] == hashlib.sha256((tmp_path / "out" / "ids.txt").read_bytes()).hexdigest()
    assert (tmp_path / "out" / "dropped.csv").read_text() == 'sample,class\n3,"a ""b"",\n"\n'
    asked.begin()  # the same question again
    for change in ({"seed": 1}, {"settings": {"k": 4}}, {"start": np.arange(8)}, {"verb": "leaks"}):
        with pytest.raises(UserError, match="holds what another curation chose"):
            question(shards, tmp_path / "out", **change).begin()


def test_what_cannot_be(planted, tmp_path):
    shards, *_ = planted
    with pytest.raises(UserError, match="no sample is left"):
        write_answer(question(shards, tmp_path), np.arange(0), dropped={}, told={})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder"):
        question(shards, tmp_path / "file" / "out").begin()
    with pytest.raises(UserError, match=r"OUT s3://bucket/out: .* written on a disk only; name a folder there"):
        question(shards, Path("s3://bucket/out")).begin()
    (tmp_path / "provenance.json").write_text("[")
    with pytest.raises(UserError, match=r"provenance\.json"):
        question(shards, tmp_path).begin()


def test_a_folder_of_shards_or_of_a_run_is_no_place_for_an_answer(planted, tmp_path):
    shards, *_ = planted
    with pytest.raises(UserError, match="holds shards; name a folder of its own"):
        question(shards, shards.path).begin()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run; name a folder of its own"):
        question(shards, tmp_path).begin()


def test_features_of_another_set_are_refused(planted, run_dir, digits, tmp_path):
    encoder = Encoder.of(str(run_dir), "", tmp_path)
    test = ShardFolder.find(digits / "test")
    rows = encoder.rows(test, np.arange(9), ALONE)
    np.save(rows.file.path, np.ones((test.manifest.num_samples + 1, rows.width), np.float32))
    with pytest.raises(UserError, match=r"has 360 rows, and .* 359 samples; remove its folder"):
        encoder.rows(test, np.arange(9), ALONE)


def test_samples_to_choose_from(planted, tmp_path):
    shards, *_ = planted
    assert len(samples_to_choose_from(shards, None)) == shards.manifest.num_samples
    (tmp_path / "ids").write_text("5\n2\n")
    assert samples_to_choose_from(shards, tmp_path / "ids").tolist() == [2, 5]
    (tmp_path / "ids").write_text("5\n5\n")
    with pytest.raises(UserError, match=r"--seed-ids .*must name different samples"):
        samples_to_choose_from(shards, tmp_path / "ids", "--seed-ids")
    assert digest_of_ids(np.array([1, 2])) != digest_of_ids(np.array([2, 1]))


def test_videos_are_refused(planted, tmp_path):
    shards, *_ = planted
    shutil.copytree(shards.path, tmp_path / "films")
    manifest = json.loads((tmp_path / "films" / "manifest.json").read_text())
    manifest["frames"] = {"num_frames": 59, "rate": [8.0] * 3, "count": [1] * 3, "streams": [""]}
    manifest["frames"] |= {"frames_sha256": "", "clips_sha256": "", "motion_sha256": ""}
    (tmp_path / "films" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="its samples are videos"):
        images_in(tmp_path / "films", world=ALONE)
    assert images_in(shards.path, world=ALONE).manifest_sha256 == ShardFolder(shards.path).manifest_sha256


def test_an_encoders_rows(run_dir, digits):
    shards = ShardFolder.find(digits, "test")
    encoder = Encoder.of(str(run_dir), "mean", None)
    rows = encoder.rows(shards, np.array([4, 2]), ALONE)
    assert rows.count == 2 and encoder.cache == run_dir / "eval" / "features"
    told = encoder.told(shards)
    assert told["sha256"] == encoder.subject.digest() and (told["features"], told["model"]) == ("mean", str(run_dir))
    with pytest.raises(UserError, match=r"--features pool: .* has cls, mean; choose one of them"):
        Encoder.of(str(run_dir), "pool", None).rows(shards, np.array([4]), ALONE)
