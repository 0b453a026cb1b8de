"""Every recipe builds, every tiny one trains, through the real command. A paper's numbers: in its method's own test."""

import json
import math
from pathlib import Path

import pytest
import torch
from captioned import pack_named_digits
from moving_squares import pack_squares

from eyespot.cluster.cli import main
from eyespot.pretrain.networks.encoders import make_encoder
from eyespot.pretrain.recipe_lookup import make_run, recipe_names

RECIPES = sorted(recipe_names())


def is_of_videos(recipe: str) -> bool:
    view = getattr(make_run(recipe).objective, "view", None)
    return getattr(view, "clip", None) is not None


TINY = [name for name in RECIPES if name.endswith("_tiny") and not is_of_videos(name)]
OF_MEMBERS = [name for name in TINY if make_run(name).objective.about.family in ("text", "sound", "depth")]


@pytest.fixture(scope="module")
def named_digits(tmp_path_factory) -> Path:
    return pack_named_digits(tmp_path_factory.mktemp("named"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_builds_and_says_what_it_is(recipe):
    run = make_run(recipe)
    assert recipe_names()[recipe].__doc__
    assert run.optim.warmup_steps < run.steps
    with torch.device("meta"):  # shapes without memory: ViT-L in a moment
        encoder = make_encoder(run.encoder)
    assert encoder.num_features > 0


@pytest.mark.parametrize("recipe", TINY)
def test_a_tiny_recipe_trains(recipe, digits, named_digits, tmp_path):
    shards = named_digits if recipe in OF_MEMBERS else digits
    places = ["--data.shards", str(shards), "--run-dir", str(tmp_path / "run")]
    short = ["--steps", "3", "--log-every", "1", "--data.batch-size", "32", "--optim.warmup-steps", "1", "--no-track"]
    assert main(["pretrain", recipe, *places, *short]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)  # test_contract.py has what learns; MoCo's queue must fill first


@pytest.mark.parametrize("recipe", ["video_colorization_tiny", "motion_segmentation_tiny", "tracked_patches_tiny"])
def test_a_tiny_recipe_of_clips_with_masks_trains(recipe, tmp_path):
    shards = pack_squares(tmp_path / "squares", 12).path
    places = ["--data.shards", str(shards), "--run-dir", str(tmp_path / "run"), "--no-track", "--device", "cpu"]
    short = ["--steps", "4", "--log-every", "1", "--data.batch-size", "8", "--optim.warmup-steps", "1"]
    assert main(["pretrain", recipe, *places, *short, "--picture-every", "4"]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) == 1
