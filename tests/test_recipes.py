"""Every recipe builds; the papers' numbers are what the papers say; every tiny one trains, through the real command."""

import json

import pytest
import torch

from eyespot.cluster.cli import main
from eyespot.pretrain.config import make_run, recipe_names
from eyespot.pretrain.encoders import make_encoder
from eyespot.pretrain.schedule import effective_rate

RECIPES = sorted(recipe_names())


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_builds_and_says_what_it_is(recipe):
    run = make_run(recipe)
    assert recipe_names()[recipe].__doc__
    assert run.optim.warmup_steps < run.steps
    with torch.device("meta"):  # shapes without memory: ViT-L in a moment
        encoder = make_encoder(run.encoder)
    assert encoder.num_features > 0


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.endswith("_tiny")])
def test_a_tiny_recipe_trains(recipe, digits, tmp_path):
    places = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "run")]
    short = ["--steps", "6", "--log-every", "1", "--data.batch-size", "32", "--optim.warmup-steps", "1", "--no-track"]
    assert main(["pretrain", recipe, *places, *short]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("recipe", "dim", "depth"), [("mae_vitb16_in1k", 768, 12), ("mae_vitl16_in1k", 1024, 24)])
def test_mae_on_imagenet_has_the_papers_numbers(recipe, dim, depth):
    """He et al. 2021, table 8."""
    run = make_run(recipe)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1.5e-4 * 4096 / 256)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip) == ((0.9, 0.95), 0.05, None)
    assert run.optim.warmup_steps == pytest.approx(40 * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(800 * 1_281_167 / 4096, abs=1)
    objective = run.objective
    assert (objective.mask_ratio, objective.normalize_targets, objective.crop_scale) == (0.75, True, (0.2, 1.0))
    assert (objective.decoder_dim, objective.decoder_depth, objective.decoder_heads) == (512, 8, 16)
    with torch.device("meta"):
        encoder = make_encoder(run.encoder)
    assert (encoder.embed_dim, len(encoder.blocks), encoder.patch_embed.patch_size) == (dim, depth, (16, 16))
