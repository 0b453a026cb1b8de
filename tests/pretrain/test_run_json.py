"""A Run survives its JSON; unknown fields are one line; what changed between two runs is named."""

import json

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.recipe_lookup import make_run, recipe_names
from eyespot.pretrain.run_json import difference, load_run, overlay, to_values, with_defaults


@pytest.mark.parametrize("recipe", sorted(recipe_names()))
def test_every_recipe_survives_json(recipe, tmp_path):
    run = make_run(recipe)
    run.data.shards, run.stop_after = tmp_path, 3
    (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe, "run": to_values(run)}))
    name, back = load_run(tmp_path)
    assert (name, back) == (recipe, run)


def test_a_field_of_another_version_is_named(tmp_path):
    values = to_values(make_run("mae_tiny"))
    values["objective"]["no_such_number"] = 1
    with pytest.raises(UserError, match=r"field objective\.no_such_number"):
        overlay(make_run("mae_tiny"), values, "run.json")


def test_an_older_versions_run_counts_with_the_defaults_of_new_fields():
    run = make_run("simclr_tiny")
    old = to_values(run)
    del old["optim"]["layer_decay"], old["objective"]["view"]["rand_augment_std"], old["start"]
    assert difference(with_defaults(old, run), to_values(run)) is None
    run.optim.layer_decay = 0.5
    assert difference(with_defaults(old, run), to_values(run)) == "optim.layer_decay is 0.5, was 1.0"


def test_difference_names_the_field_that_changes_the_numbers():
    old, new = make_run("mae_tiny"), make_run("mae_tiny")
    new.save_every, new.data.accumulate = 7, 2
    assert difference(to_values(old), to_values(new)) is None
    new.optim.lr = 9.0
    assert difference(to_values(old), to_values(new)) == f"optim.lr is 9.0, was {old.optim.lr}"
