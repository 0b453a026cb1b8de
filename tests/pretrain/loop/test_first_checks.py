"""What cannot begin is refused before there is a folder of it: each refusal by settings and machine alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from captioned import pack_named_digits
from moving_squares import pack_squares

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import trainer
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.first_checks import before_folder
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
HERE = Path(__file__)


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """``{"data.decode": "gpu"}`` laid over a config, as flags are."""
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        config = replace(config, **{first: changed(getattr(config, first), {rest: value}) if rest else value})
    return config


REFUSED = [
    ("mae_tiny", 1, {"cuda_graph": True}, "cuda_graph True: there are none on a CPU; leave it out"),
    ("mae_tiny", 1, {"data.decode": "gpu"}, "data.decode gpu: this run is on the CPU; set it to auto"),
    ("mae_tiny", 1, {"device": "cuda"}, "device cuda: no NVIDIA device shows here"),
    ("mae_tiny", 1, {"data.shards": None}, "data.shards: not given"),
    ("mae_tiny", 1, {"data.shards": "nowhere"}, "nowhere"),
    ("mae_tiny", 1, {"data.accumulate": 7}, r"data.batch_size 256: must be a multiple of 7 \(1 rank x 7 .* 259"),
    ("mae_tiny", 1, {"data.lanes": 48}, r"data.lanes 48: must divide the micro-batch, 256 .* for instance 32"),
    (
        "mae_tiny",
        3,
        {},
        r"data.batch_size 256: must be a multiple of 3 \(3 ranks x 1 micro-batch\), for instance 255",
    ),
    (
        "mae_tiny",
        1,
        {"data.labeled_ids": HERE},
        "data.labeled_ids .*: MAE learns from none of the labels; leave it out",
    ),
    ("split_brain_tiny", 1, {"data.normalize": "dataset"}, "data.normalize 'dataset': this method computes with"),
    ("mae_tiny", 1, {"encoder.name": "vit_tinny"}, "encoder.name 'vit_tinny': timm has no such architecture"),
    ("mae_tiny", 1, {"encoder.patch_size": 7}, "encoder.patch_size 7: does not divide encoder.image_size 16"),
    ("mae_tiny", 1, {"objective.mask_ratio": 0.9999}, "objective.mask_ratio 0.9999: nothing visible"),
    ("moco_v3_tiny", 1, {"encoder.name": "resnet18", "encoder.patch_size": None}, "freeze_patches True: ResNet"),
    (
        "simclr_tiny",
        1,
        {"encoder.name": "vit_tiny_patch16_224", "encoder.image_size": 32, "objective.view.size": 48},
        "objective.view.size 48: the encoder sees images of 32 pixels only; leave it out, or set encoder.image_size to",
    ),
    (
        "byol_tiny",
        1,
        {"encoder.name": "vit_tiny_patch16_224", "encoder.image_size": 32, "objective.second.size": 16},
        "objective.second.size 16: the encoder sees images of 32 pixels only",
    ),
    ("mae_tiny", 1, {"start.weights": Path("no.safetensors")}, "start.weights no.safetensors: cannot be read"),
    ("mae_tiny", 1, {"start.prefix": "teacher"}, "start.prefix teacher: there is no file that it is of; add --start.w"),
    ("mae_tiny", 1, {"start.sha256": "abc"}, "start.sha256 abc: there is no file that it is of; add --start.weights"),
    (
        "mae_tiny",
        1,
        {"start.weights": HERE, "monitor_every": 1, "start.guard": "nowhere"},
        "start.guard: shards nowhere: no such folder",
    ),
    ("mae_tiny", 1, {"start.weights": HERE.parent}, "is a folder; name a file of weights"),
    ("mae_tiny", 1, {"start.weights": HERE}, r"start.weights .*test_first_checks.py: cannot be read as safetensors"),
    ("distill_tiny", 1, {"objective.teacher.model": ""}, "objective.teacher.model '': who teaches"),
    ("distill_tiny", 1, {"objective.teacher.weights": HERE}, "objective.teacher.weights .*: cannot be read as saf"),
    (
        "mae_tiny",
        1,
        {"resume": "runs/other/step-1"},
        "checkpoint runs/other/step-1: no meta.json, so it is not a compl",
    ),
    ("mae_tiny", 2, {"engine": "fsdp", "fsdp.shard_over": "node"}, "fsdp.shard_over 'node': LOCAL_WORLD_SIZE is not"),
    (
        "simclr_r50_in1k",
        1,
        {"data.batch_size": 64, "data.accumulate": 1, "engine": "fsdp", "fsdp.gather": "bf16"},
        "fsdp.gather 'bf16': this encoder's blocks",
    ),
    ("mae_tiny", 1, {"engine": "deepspeed", "optim.name": "lars"}, "optim.name lars: needs the norms of whole tensors"),
    ("mae_tiny", 1, {"engine": "deepspeed", "compile": True, "deepspeed.stage": 3}, "compile True: ZeRO-3 cannot run"),
    ("mae_tiny", 1, {"engine": "deepspeed", "deepspeed.options": Path("none.json")}, "none.json: cannot be read"),
]


@no_gpu
@pytest.mark.parametrize(("recipe", "ranks", "changes", "words"), REFUSED, ids=[str(row[2]) for row in REFUSED])
def test_what_cannot_begin_leaves_nothing_behind(recipe, ranks, changes, words, digits, tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    run = changed(
        make_run(recipe), {"data.shards": str(digits), "run_dir": tmp_path / "run", "device": "cpu", **changes}
    )
    monkeypatch.setattr(trainer, "RunFolder", lambda *_: pytest.fail("the folder is about to be made"))
    with pytest.raises(UserError, match=words):
        if ranks == 1:
            fit(run, recipe)
        else:
            before_folder(run, World(rank=0, size=ranks, device=torch.device("cpu")), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", ["[]", json.dumps({"zero_optimization": 3}), json.dumps({"bf16": {"enabled": True}})]
)
def test_options_of_deepspeed_that_cannot_be(options, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "RunFolder", lambda *_: pytest.fail("the folder is about to be made"))
    (tmp_path / "options.json").write_text(options)
    changes = {"engine": "deepspeed", "deepspeed.options": tmp_path / "options.json", "data.shards": str(digits)}
    run = changed(make_run("mae_tiny"), {**changes, "run_dir": tmp_path / "run", "device": "cpu"})
    with pytest.raises(UserError, match=r"deepspeed.options .*options\.json: "):
        fit(run, "mae_tiny")
    assert not (tmp_path / "run").exists()


@no_gpu
@pytest.mark.parametrize("flags", [["--cuda-graph"], ["--data.decode", "gpu"]])
def test_the_command_suggests_what_can_be_done_here(flags, digits, tmp_path, capsys):
    words = [
        "pretrain",
        "mae_tiny",
        "--data.shards",
        str(digits),
        "--run-dir",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    assert main([*words, *flags]) == 2
    said = capsys.readouterr().err
    assert "(torch finds no GPU on this machine)" in said and "--device cuda" not in said
    assert list(tmp_path.iterdir()) == []


def test_shards_are_handed_on_and_a_run_that_has_begun_is_not_looked_at(digits, tmp_path):
    run = changed(make_run("mae_tiny"), {"data.shards": str(digits), "run_dir": tmp_path / "run"})
    world = World(rank=0, size=1, device=torch.device("cpu"))
    shards = before_folder(run, world, None)
    assert shards is not None and shards.manifest.num_samples > 0
    assert before_folder(run, world, shards) is shards
    impossible = changed(run, {"cuda_graph": True})
    assert before_folder(impossible, World(rank=1, size=2, device=world.device), None) is None, "the first one says it"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert before_folder(impossible, world, None) is None
    with pytest.raises(UserError, match="holds a run already"):
        fit(replace(impossible, device="cpu"), "mae_tiny")


def test_masks_with_another_number_for_what_is_unknown_are_refused(tmp_path):
    shards = pack_squares(tmp_path / "squares")
    changes = {"data.shards": str(shards.path), "data.batch_size": 2, "run_dir": tmp_path / "run"}
    run, world = (
        changed(make_run("motion_segmentation_tiny"), changes),
        World(rank=0, size=1, device=torch.device("cpu")),
    )
    assert before_folder(run, world, shards) is shards
    shards.manifest.masks.ignored = 254
    with pytest.raises(
        UserError, match=r"shards .*squares: in their masks 254 says nothing, and this method counts on 255"
    ):
        before_folder(run, world, shards)


def test_spectrograms_that_memory_cannot_hold(tmp_path):
    shards = pack_named_digits(tmp_path, count=16)
    changes = {"data.shards": str(shards), "data.batch_size": 8, "run_dir": tmp_path / "run"}
    run = changed(make_run("ambient_sound_tiny"), changes)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    assert before_folder(run, world, None) is not None
    huge = changed(run, {"objective.sound.seconds": 3600.0, "objective.sound.hop": 1})
    with pytest.raises(UserError, match=r"sound.seconds 3600: the spectrograms of 8 samples take .* GB, more"):
        before_folder(huge, world, None)


def test_what_the_meta_device_refuses_is_tried_in_earnest(digits, tmp_path, monkeypatch):
    from eyespot.pretrain.loop import first_checks

    tried = []

    def built(run):
        tried.append(torch.get_default_device().type)
        if tried[-1] == "meta":
            raise UserError("encoder: refuses what has no numbers")
        return fresh(run)

    fresh = first_checks.fresh_objective
    monkeypatch.setattr(first_checks, "fresh_objective", built)
    run = changed(make_run("mae_tiny"), {"data.shards": str(digits), "run_dir": tmp_path / "run"})
    assert before_folder(run, World(rank=0, size=1, device=torch.device("cpu")), None) is not None
    assert tried == ["meta", "cpu"]
