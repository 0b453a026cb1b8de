"""A packed data set and a run folder as training leaves it, small enough for every test."""

import json
from pathlib import Path

import pytest
import torch

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values


@pytest.fixture
def run_dir(digits, tmp_path) -> Path:
    """mae_tiny around timm's smallest ViT, with one checkpoint of untrained weights."""
    run = make_run("mae_tiny")
    run.encoder = EncoderConfig(name="test_vit", image_size=16, patch_size=4)
    run.run_dir, run.data.shards, run.steps = tmp_path / "run", digits, 12
    torch.manual_seed(1)
    objective = fresh_objective(run)
    tensors = {f"model.{name}": tensor for name, tensor in objective.state_dict().items()}
    meta = checkpoint.Meta(step=12, loader={}, world_size=1, run_key="0")
    run.run_dir.mkdir()
    CheckpointWriter(run.run_dir, keep=2).save(tensors, meta, wait=True)
    record = {
        "recipe": "mae_tiny",
        "argv": ["eyespot", "pretrain", "mae_tiny", "--data.shards", str(digits)],
        "run": to_values(run),
        "manifest_sha256": ShardFolder(digits / "train").manifest_sha256,
        "normalization": {"mean": [0.3, 0.3, 0.3], "std": [0.37, 0.37, 0.37]},
    }
    (run.run_dir / "run.json").write_text(json.dumps(record))
    return run.run_dir
