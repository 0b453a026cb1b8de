"""Settings by their names, and what was meant by one that there is not."""

import pytest

from eyespot.cluster.config_files.setting_names import as_typed, leaves, settings, unknown
from eyespot.pretrain.recipe_lookup import make_run


def test_settings_are_those_that_have_a_flag():
    found = {name: (kind, value) for name, kind, value in settings(make_run("mae_tiny"))}
    assert found["steps"][1] == 1000 and found["data.batch_size"][0] is int and found["encoder.name"][1] == "test_vit"
    assert "recipe" not in found and "objective" not in found
    partners = [name for name, _, _ in settings(make_run("tcn_tiny")) if name.endswith("partner")]
    assert partners == [], "the method sets it"


@pytest.mark.parametrize(
    ("values", "name", "fix"),
    [
        ({"stepz": 1}, "stepz", "perhaps you meant steps"),
        ({"lr": 1}, "lr", "perhaps you meant optim.lr"),
        ({"data": {"shard": 1}}, "data.shard", "perhaps you meant data.shards"),
        ({"optim": {"batch_size": 1}}, "optim.batch_size", "perhaps you meant data.batch_size"),
        ({"objective": {"qqqq": 1}}, "objective.qqqq", "there are "),
        ({"recipe": "x"}, "recipe", ""),
    ],
)
def test_what_was_meant(values, name, fix):
    found = unknown(make_run("mae_tiny"), values)
    assert found is not None and found[0] == name and found[1].startswith(fix)


def test_all_known():
    assert unknown(make_run("mae_tiny"), {"seed": 1, "data": {"shards": "x"}}) is None
    assert list(leaves({"a": {"b": 1, "c": {}}, "d": 2})) == ["a.b", "d"]


def test_texts_mean_what_flags_mean(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = make_run("mae_tiny")
    values = {"data": {"ids": "None", "shards": "~/d"}, "experiment": "None", "resume": "~/x", "run_dir": "~/r"}
    assert as_typed(run, values) == {
        "data": {"ids": None, "shards": f"{tmp_path}/d"},
        "experiment": "None",
        "resume": "~/x",
        "run_dir": f"{tmp_path}/r",
    }
