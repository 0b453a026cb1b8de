"""A Run survives its JSON; fields of other versions are named, or count with their defaults; secrets stay out."""

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.recipe_lookup import make_run, recipe_names
from eyespot.pretrain.run_json import change_of, load_run, overlay, recorded_values, to_values, with_defaults
from eyespot.pretrain.run_record import RunRecord, difference


@pytest.mark.parametrize("recipe", sorted(recipe_names()))
def test_every_recipe_survives_json(recipe, tmp_path):
    run = make_run(recipe)
    run.data.shards, run.stop_after = tmp_path, 3
    RunRecord(recipe=recipe, run=to_values(run)).write(tmp_path)
    assert load_run(tmp_path) == load_run(RunRecord.path(tmp_path)) == (recipe, run)


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


def test_what_changes_a_recorded_run_is_named():
    """Its recipe too; a setting that its version did not know counts with the default."""
    run = make_run("mae_tiny")
    record = RunRecord(recipe="mae_tiny", run=recorded_values(run))
    del record.run["optim"]["trust"]
    run.log_every = 3
    assert change_of(record, "mae_tiny", run) is None
    assert change_of(record, "mae_small", run) == "recipe is 'mae_small', was 'mae_tiny'"
    run.optim.trust = 0.5
    assert change_of(record, "mae_tiny", run) == "optim.trust is 0.5, was 0.001"


def test_a_secret_is_the_same_run_and_is_not_recorded(monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_TOKEN", "very-secret-words")
    run = make_run("mae_tiny")
    run.data.ids = tmp_path / "very-secret-words"
    record = RunRecord(recipe="mae_tiny", run=recorded_values(run))
    assert "very-secret-words" not in record.text()
    assert change_of(record, "mae_tiny", run) is None
