"""Recipes by name: fresh each time, also from elsewhere; what is unknown is one line."""

import sys

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import trusted_recipes
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import make_recorded, make_run, recipe_names


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
        ("nothing.like:this", "No module named 'nothing'; write it as package.module:function, in the folder"),
        ("json.absent:this", "No module named 'json.absent'; write it as"),
        ("eyespot.pretrain.recipes.mae:absent", "unknown"),
        ("eyespot.cluster.cli:main", "unknown"),
        ("eyespot:no_such_thing", "unknown"),
        ("my_package/my_file.py:recipe", "write it as package.module:function: my_package.my_file:recipe"),
        ("my_package.recipe", "a recipe of your own is named as package.module:function"),
        ("json:absent", r"json has no function 'absent'; its functions: dump, dumps"),
        ("json:dumps", "cannot be called without arguments .missing a required argument"),
        ("os:getpid", "returns int, not a Run"),
        ("quite_unlike_any_of_them", "^[^,]*the nearest are \\w+, \\w+, \\w+; all are listed by: eyespot recipes$"),
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
    with pytest.raises(ImportError, match="_of_old") as raised:
        make_run("recipes_of_mine:run")
    assert raised.value.__notes__ == ["eyespot's modules have moved, see CHANGELOG.md"]


RECIPE = "from eyespot.pretrain.recipe_lookup import make_run\n\ndef recipe():\n    return make_run('mae_tiny')\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder, with a package of one's own in it."""
    folder = tmp_path / "package_of_mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    trusted_recipes.take([])
    yield folder
    trusted_recipes.take([])
    for name in [name for name in sys.modules if name.startswith("package_of_mine")]:
        del sys.modules[name]


def test_a_package_in_the_current_folder_is_found_and_later_imports_of_its_own_too(own, tmp_path):
    (own / "beside.py").touch()
    (own / "recipes.py").write_text(RECIPE.replace("    return", "    import package_of_mine.beside\n    return"))
    before = list(sys.path)
    assert make_run("package_of_mine.recipes:recipe") == make_run("mae_tiny")
    assert sys.path == [*before, str(tmp_path)], "last: what lies there stands in nobody's way"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_package_that_is_missing", ModuleNotFoundError),
        ("from json import no_such_name", ImportError),
        ("def recipe(:", SyntaxError),
        ("recipe = wrong_name", NameError),
        ("def recipe():\n    return None.data", AttributeError),
        ("def recipe():\n    import a_package_that_is_missing", ModuleNotFoundError),
        ("def recipe():\n    return len(5)", TypeError),
    ],
)
def test_errors_inside_ones_own_module_are_ones_own(own, source, error):
    (own / "recipes.py").write_text(source)
    with pytest.raises(error) as raised:
        make_run("package_of_mine.recipes:recipe")
    if error is not SyntaxError:
        assert raised.traceback[-1].path.name in ("recipes.py", "_bootstrap")
        assert any(entry.path == own / "recipes.py" for entry in raised.traceback)


def test_a_file_may_name_our_recipes_and_those_that_the_user_trusts(own):
    (own / "recipes.py").write_text(f"from os import getpid\n{RECIPE}")
    assert make_recorded("mae_tiny", "run.json") == make_recorded("eyespot.pretrain.recipes.mae:mae_tiny", "run.json")
    for stranger in ("os:abort", "package_of_mine.recipes:recipe", "package_of_mine:recipe", "a:b:c", ".:x"):
        with pytest.raises(UserError, match=r"^RUN/run\.json: names the recipe .*, add --trust-recipe "):
            make_recorded(stranger, "RUN/run.json")
    assert not any(name.startswith("package_of_mine") for name in sys.modules), "nothing was imported"
    for inside in ("eyespot.cluster.cli:main", "eyespot.pretrain.recipes.datasets:on_imagenet", "eyespot:x"):
        with pytest.raises(UserError, match="unknown"):
            make_recorded(inside, "run.json")
    trusted_recipes.take(["--trust-recipe", "package_of_mine"])
    assert make_recorded("package_of_mine.recipes:recipe", "run.json") == make_run("mae_tiny")
    with pytest.raises(UserError, match=r"which package_of_mine\.recipes does not define"):
        make_recorded("package_of_mine.recipes:getpid", "run.json")
    with pytest.raises(UserError, match="add --trust-recipe os"):
        make_recorded("os:getpid", "run.json")


def test_who_has_typed_a_recipe_trusts_it(own):
    (own / "recipes.py").write_text(RECIPE)
    make_run("package_of_mine.recipes:recipe")
    assert make_recorded("package_of_mine.recipes:recipe", "run.json") == make_run("mae_tiny")
