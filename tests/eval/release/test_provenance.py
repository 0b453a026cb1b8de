"""What a release says of where it comes from, against the run folder that it comes from."""

import json
from pathlib import Path
from typing import Any

import torch
from released_runs import CHECKPOINT, small_run, write_run
from result_files import some_result, write

from eyespot.data_pipeline.shards.manifest import ImageStats, Manifest
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.release.provenance import origin_of
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.run_json import to_values


def test_provenance_json(released: Path):
    said = json.loads((released / "provenance.json").read_text())
    record = json.loads((released.with_name("first-run") / "run.json").read_text())
    assert said["run"] == record
    expected = {
        "format": "eyespot-release/1",
        "name": "first-run",
        "license": "apache-2.0",
        "checkpoint": CHECKPOINT,
        "step": 12,
        "samples_seen": 3072,
        "seed": 0,
        "world_size": 2,
        "parents": [],
        "data": {"manifest_sha256": "d" * 64},
        "hardware": {"cpu": "An Engine", "cores": 2, "gpus": []},
        "code": {"git_commit": "c0ffee", "git_diff_sha256": "", "dirty": False, "eyespot": "0.1.0"},
    }
    assert expected.items() <= said.items()
    assert [result["role"] for result in said["results"]] == ["encoder", "random"]
    assert said["results"][0]["accuracy"] == 0.9 and said["results"][1]["accuracy"] == 0.5


def test_only_results_of_this_checkpoint_and_its_twin_of_the_same_test(tmp_path: Path):
    run_dir = write_run(tmp_path / "run")
    write(run_dir, "older.json", some_result(key="c", origin={"checkpoint": "step-00000006"}, accuracy=0.1))
    write(run_dir, "other_seed.json", some_result(key="d", role="random", origin={"seed": 3}, seed=3, accuracy=0.2))
    write(run_dir, "other_data.json", some_result(key="e", role="random", origin={}, data="photos", accuracy=0.3))
    assert [result.accuracy for result in origin_of(run_dir).results()] == [0.9, 0.5]


def test_data_that_is_still_there(tmp_path: Path):
    run = small_run(tmp_path / "run")
    run.data.shards = str(tmp_path / "digits")
    sizes: Any = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "height": (8, 8, 8), "width": (8, 8, 9)}
    manifest = Manifest(
        name="digits",
        num_samples=1438,
        num_labeled=1438,
        classes=list("0123456789"),
        shards=[],
        image_stats=ImageStats(**sizes),
        index_sha256="",
    )
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "manifest.json").write_text(manifest.to_json())
    digest = ShardFolder(tmp_path / "digits").manifest_sha256
    said = origin_of(write_run(tmp_path / "run", run=run, manifest_sha256=digest)).data()
    assert (said["name"], said["num_images"], said["num_classes"]) == ("digits", 1438, 10)
    assert said["width"] == (8, 8, 9) and said["manifest_sha256"] == digest
    changed = write_run(tmp_path / "changed", run=run, manifest_sha256="f" * 64)
    assert origin_of(changed).data() == {"manifest_sha256": "f" * 64}


def test_parents(tmp_path: Path):
    parent = write_run(tmp_path / "parent")
    run = small_run(tmp_path / "child")
    run.resume = str(parent / "checkpoints" / CHECKPOINT)
    values = to_values(run)
    child = write_run(tmp_path / "child", run=run)
    assert origin_of(child).parents() == [{"checkpoint": run.resume, "run_key": "key", "step": 12}]
    values["start"] = {"weights": "w.safetensors", "sha256": "ab", "origin": "models:/x/3"}
    values["resume"] = "never"
    tuned = write_run(tmp_path / "tuned", **{"run": None})
    record = json.loads((tuned / "run.json").read_text())
    (tuned / "run.json").write_text(json.dumps({**record, "run": values}))
    assert origin_of(tuned).parents() == [{"origin": "models:/x/3", "weights_sha256": "ab"}]
    values["start"] = {"weights": "w.safetensors", "sha256": "", "origin": ""}  # nobody said more
    begun = {"weights": "/somewhere/w.safetensors", "sha256": "cd", "loaded": "78 of 78", "copies": 1}
    (tuned / "run.json").write_text(json.dumps({**record, "run": values, "start": begun}))
    assert origin_of(tuned).parents() == [{"origin": "w.safetensors", "weights_sha256": "cd"}]
    values["start"] = {"model": "vit_tiny_patch16_224"}
    begun = {"model": "vit_tiny_patch16_224", "weights": "", "sha256": "", "loaded": "all", "copies": 1}
    (tuned / "run.json").write_text(json.dumps({**record, "run": values, "start": begun}))
    assert origin_of(tuned).parents() == [{"origin": "vit_tiny_patch16_224"}]


def test_the_newest_checkpoint_or_a_named_one(tmp_path: Path):
    run_dir = write_run(tmp_path / "run")
    meta = checkpoint.Meta(step=20, loader={}, world_size=1, run_key="key")
    CheckpointWriter(run_dir, keep=2).save({"model.encoder.x": torch.zeros(1)}, meta, wait=True)
    assert origin_of(run_dir).folder.name == "step-00000020"
    assert origin_of(run_dir, CHECKPOINT).folder.name == CHECKPOINT


def test_what_is_said_of_the_method(tmp_path: Path):
    mae, supcon = (
        origin_of(write_run(tmp_path / recipe, run=small_run(tmp_path / recipe, recipe), recipe=recipe))
        for recipe in ("mae_tiny", "supcon_tiny")
    )
    assert "He et al. 2021, arXiv:2111.06377" in mae.method() and not mae.sees_labels()
    assert "arXiv:2004.11362" in supcon.method() and supcon.sees_labels()
