"""A Run survives its JSON; fields of other versions are named, or count with their defaults; secrets stay out."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from eyespot.data_pipeline.augment.views import Clip
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.recipe_lookup import make_run, recipe_names
from eyespot.pretrain.run_json import change_of, load_run, overlay, recorded_values, shortened, to_values, with_defaults
from eyespot.pretrain.run_record import RunRecord, difference


@pytest.mark.parametrize("recipe", sorted(recipe_names()))
def test_every_recipe_survives_json(recipe, tmp_path):
    run = make_run(recipe)
    run.data.shards, run.stop_after = str(tmp_path), 3
    RunRecord(recipe=recipe, run=to_values(run)).write(tmp_path)
    assert load_run(tmp_path) == load_run(RunRecord.path(tmp_path)) == (recipe, run)


def test_a_field_of_another_version_is_named(tmp_path):
    values = to_values(make_run("mae_tiny"))
    values["objective"]["no_such_number"] = 1
    with pytest.raises(UserError, match=r"field objective\.no_such_number"):
        overlay(make_run("mae_tiny"), values, "run.json")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("data", 5, "data 5: expected an object with its fields"),
        ("encoder", None, "encoder None: expected an object"),
        ("encoder.name", 5, "encoder.name 5: expected str, got int"),
        ("objective.view", [1], r"objective\.view \[1\]: expected an object"),
        ("objective.view.scale", [0.1], "objective.view.scale .*: expected array of length 2"),
        ("steps", "x", "steps 'x': expected int, got str"),
        ("steps", 10**30, r"steps 10{30}: must be below 2\^63"),
        ("steps", 0, r"run\.json: steps 0: must be 1 or more"),
        ("seed", None, "seed None: expected int, got null"),
        ("seed", True, "seed True: expected int, got bool"),
        ("seed", -(10**30), "seed -10{30}: must be below"),
        ("optim.lr", math.nan, "optim.lr nan: is not a number"),
        ("optim.lr", math.inf, "optim.lr inf: must be finite"),
        ("optim.betas", [0.9, "b"], r"optim.betas \[0.9, 'b'\]: expected float, got str"),
        (
            "objective.view.jitter",
            [9, 9, 9, 9],
            r"objective\.view\.jitter \(9.0, .*: must be 0 or more each",
        ),
        ("objective.view.blur_sigma", [2, 1], r"run\.json: objective\.view\.blur_sigma \(2.0, 1.0\): must be above"),
        ("data.shards", 7, "data.shards 7: expected str"),
        ("engine", "y" * 1000, "engine 'y+\\.\\.\\.: choose one of ddp, fsdp, deepspeed"),
    ],
)
def test_a_value_of_another_kind_or_out_of_range_is_one_line(name, value, words, tmp_path):
    values = to_values(make_run("simclr_tiny"))
    place = values
    for part in name.split(".")[:-1]:
        place = place[part]
    place[name.split(".")[-1]] = value
    RunRecord(recipe="simclr_tiny", run=values).write(tmp_path)
    with pytest.raises(UserError, match=words) as raised:
        load_run(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/run.json: ") and "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_what_a_run_reads_is_recorded_by_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run("mae_tiny")
    run.data.shards, run.start.weights, run.run_dir = "data/digits", Path("start.safetensors"), Path("runs/one")
    values = recorded_values(run)
    assert values["data"]["shards"] == str(tmp_path / "data/digits") and values["data"]["ids"] is None
    assert values["start"]["weights"] == str(tmp_path / "start.safetensors")
    assert values["run_dir"] == "runs/one" and run.data.shards == "data/digits", "the run itself stays as it is"


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


def test_a_run_keeps_its_promise_of_bits():
    """Which one of before did not give."""
    run = make_run("mae_tiny")
    record = RunRecord(recipe="mae_tiny", run=recorded_values(run))
    del record.run["deterministic"]
    assert change_of(record, "mae_tiny", run) is None
    run.deterministic, run.precision = True, "tf32"
    said = f"deterministic is True, was False; precision is 'tf32', was {record.run['precision']!r}"
    assert change_of(record, "mae_tiny", run) == said


def test_a_secret_is_the_same_run_and_is_not_recorded(monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_TOKEN", "very-secret-words")
    run = make_run("mae_tiny")
    run.data.ids = tmp_path / "very-secret-words"
    record = RunRecord(recipe="mae_tiny", run=recorded_values(run))
    assert "very-secret-words" not in record.text()
    assert change_of(record, "mae_tiny", run) is None


def test_a_clip_is_recorded_where_there_is_one_and_comes_back(tmp_path):
    run = make_run("simclr_tiny")
    assert not {"clip", "partner"} & to_values(run)["objective"]["view"].keys()
    run.objective.view = replace(run.objective.view, clip=Clip(8, stride=2), partner=True)
    RunRecord(recipe="simclr_tiny", run=to_values(run)).write(tmp_path)
    assert load_run(tmp_path)[1].objective.view == run.objective.view
    shorter = replace(run, objective=replace(run.objective, view=replace(run.objective.view, clip=Clip(4, stride=2))))
    record = RunRecord(recipe="simclr_tiny", run=recorded_values(run))
    assert change_of(record, "simclr_tiny", run) is None
    assert change_of(record, "simclr_tiny", shorter) == "objective.view.clip.frames is 4, was 8"


def test_what_a_record_leaves_out_is_not_what_the_recipe_says():
    """A recipe of clips that was run on images."""
    recipe = make_run("simclr_tiny")
    values = to_values(recipe)
    recipe.objective.view = replace(recipe.objective.view, clip=Clip(8))
    assert overlay(recipe, values, "run.json").objective.view.clip is None


def test_some_settings_leave_the_others_as_they_are():
    """All settings of a record leave out what has its default; a person leaves out what he does not change."""
    run = make_run("tcn_tiny")
    values = {"objective": {"view": {"flip": 0.0}}}
    assert overlay(run, values, "x", partial=True).objective.view == replace(run.objective.view, flip=0.0)
    with pytest.raises(UserError, match=r"objective\.view\.clip None"):
        overlay(run, values, "x")


def test_a_number_that_cannot_be_printed_is_said_in_words():
    assert shortened(1 << 20_000) == "with a number of thousands of digits"
    assert shortened({"a": "b" * 99}).endswith("bbb...")
