"""What --print-config writes is the run, to the last setting, of every recipe."""

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from eyespot.cluster.config_files.request import laid
from eyespot.cluster.config_files.toml_file import TomlFile
from eyespot.cluster.config_files.toml_text import as_toml, descriptions, hidden_settings, toml_value
from eyespot.pretrain.config import DataConfig
from eyespot.pretrain.recipe_lookup import make_run, recipe_names


def read_back(recipe, text):
    return laid(recipe, make_run(recipe), [TomlFile(path=Path("run.toml"), values=tomllib.loads(text), text=text)]).run


@pytest.mark.parametrize("recipe", sorted(recipe_names()))
def test_every_recipe_comes_back(recipe):
    run = make_run(recipe)
    text = as_toml(recipe, run, run)
    assert read_back(recipe, text) == run
    assert tomllib.loads(text)["recipe"] == recipe and "the recipe:" not in text


def test_every_setting_comes_back_that_differs():
    run = make_run("simclr_tiny")
    run.steps, run.seed, run.device, run.track, run.run_dir = 7, 2**62, "cpu", False, Path('a "b"\\\x7f\té/ü\U0001f600')
    run.data = replace(run.data, mean=(0.1, 2e-7, 0.3), std=(1.0, 2.0, 3.0), ids=Path("ids"))
    run.optim = replace(run.optim, clip=None, lr=1e-30)
    recipe = make_run("simclr_tiny")
    text = as_toml("simclr_tiny", run, recipe)
    assert read_back("simclr_tiny", text) == run
    assert f"\nsteps = 7  # the recipe: {recipe.steps}\n" in text
    assert '\nids = "ids"  # the recipe: "None"\n' in text and '\nlabeled_ids = "None"\n' in text


def test_none_that_a_recipe_has_not_comes_back():
    run = make_run("simclr_r50_in1k")
    run.optim.clip = 1.0
    recipe = replace(run, optim=replace(run.optim, clip=None))
    text = as_toml("x", recipe, run)
    assert '\nclip = "None"  # the recipe: 1.0\n' in text
    assert laid("x", run, [TomlFile(path=Path("a"), values=tomllib.loads(text), text=text)]).run == recipe


@pytest.mark.parametrize(
    "value",
    [1, -3, 1.0, 1e-30, 1e300, True, "é\n\"\\\x00\x7f'''", [1, [2.5, "x"]], {"a b": {"c": 1}, "d": []}, math.inf],
)
def test_values(value):
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


def test_every_setting_says_what_it_is():
    said = descriptions(DataConfig)
    assert said["batch_size"].startswith("Images per optimiser step, over all ranks") and said["batch_size"][-1] == "."
    undescribed = [name for name in DataConfig.__slots__ if name not in said]
    assert undescribed == ["nvjpeg"], "a table of its own"


def test_secrets_stay_out(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "abcdefgh")
    run = make_run("mae_tiny")
    run.experiment = "x-abcdefgh"
    run.data.shards = str(Path("abcdefgh/d"))
    assert "abcdefgh" not in as_toml("mae_tiny", run, make_run("mae_tiny"))
    assert hidden_settings(run) == ["experiment", "data.shards"] and hidden_settings(make_run("mae_tiny")) == []
