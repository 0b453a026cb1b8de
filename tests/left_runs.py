"""Run folders as training leaves them, with weights that learned nothing."""

import json
from pathlib import Path

import torch

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values


def small_run(recipe: str) -> Run:
    """The recipe around timm's smallest ViT, on images of 16 pixels."""
    run = make_run(recipe)
    run.encoder = EncoderConfig(name="test_vit", image_size=16, patch_size=4)
    return run


def leave_run(run: Run, recipe: str, folder: Path, shards: Path, argv: list[str] | None = None) -> Path:
    """Writes the run's folder with one checkpoint, of step 12, and returns it.

    Args:
        run: what was trained.
        recipe: what it was called.
        folder: does not exist yet.
        shards: the folder, or its part, that was learned from.
        argv: the command.
    """
    run.run_dir = folder
    torch.manual_seed(1)
    tensors = {f"model.{name}": tensor for name, tensor in fresh_objective(run).state_dict().items()}
    folder.mkdir()
    meta = checkpoint.Meta(step=12, loader={}, world_size=1, run_key="0")
    CheckpointWriter(folder, keep=2).save(tensors, meta, wait=True)
    record = {
        "recipe": recipe,
        "argv": argv or [],
        "run": to_values(run),
        "manifest_sha256": ShardFolder.find(shards).manifest_sha256,
        "normalization": {"mean": [0.3, 0.3, 0.3], "std": [0.37, 0.37, 0.37]},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder
