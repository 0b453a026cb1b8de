"""Recipes by name: fresh each time, also from elsewhere; what is unknown is one line."""

import sys

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import make_run, recipe_names


def test_every_recipe_is_found_under_the_name_of_its_file():
    found = recipe_names()
    assert {"mae_tiny", "simclr_tiny", "moco_v3_vitt_cifar10"} <= found.keys()
    for name, function in found.items():
        assert name == function.__name__ and name.startswith(function.__module__.rpartition(".")[2] + "_")
        assert isinstance(make_run(name), Run)


def test_a_recipe_is_fresh_each_time():
    first = make_run("mae_tiny")
    first.optim.lr = 1.0
    assert make_run("mae_tiny").optim.lr != 1.0


def test_recipes_from_elsewhere():
    assert make_run("eyespot.pretrain.recipes.mae:mae_tiny") == make_run("mae_tiny")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("mae_tinny", "perhaps you meant mae_tiny"),
        ("nothing.like:this", "No module named"),
        ("eyespot.pretrain.recipes.mae:absent", "no attribute"),
        ("json:dumps", "missing 1 required"),
        ("os:getpid", "returns int, not a Run"),
        ("quite_unlike_any_of_them", "there are .*see eyespot recipes"),
    ],
)
def test_unknown_recipes_are_one_line(recipe, words):
    with pytest.raises(UserError, match=words):
        make_run(recipe)


@pytest.mark.parametrize(
    "line", ["from eyespot.pretrain.config import a_name_of_old", "import eyespot.data_pipeline." + "views_of_old"]
)
def test_a_recipe_that_imports_what_has_moved_is_told_so(line, tmp_path, monkeypatch):
    (tmp_path / "recipes_of_mine.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "recipes_of_mine", raising=False)
    with pytest.raises(UserError, match=r"_of_old.*modules have moved, see CHANGELOG\.md"):
        make_run("recipes_of_mine:run")
