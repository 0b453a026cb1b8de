"""Recipes of installed packages: found by name, imported when meant, never out of the current folder."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import eyespot
from eyespot.cluster.cli import main
from eyespot.cluster.commands.doctor import meant
from eyespot.cluster.config_files.request import asked
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import installed_recipes, trusted_recipes
from eyespot.pretrain.recipe_lookup import make_recorded, make_run, recipe_names
from eyespot.pretrain.run_json import to_values

RECIPES = '''
"""Two sizes of a masked autoencoder."""

from os import getpid as bright_mae_pid

from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import make_run


def bright_mae_tiny() -> Run:
    """MAE on digits, in short."""
    run = make_run("mae_tiny")
    run.steps, run.optim.warmup_steps = 40, 4
    return run


def another_tiny() -> Run:
    """Of no method that is declared."""
    return make_run("mae_tiny")
'''

PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "good-methods"
version = "1.2"

[project.entry-points."eyespot.recipes"]
bright_mae = "good_methods.recipes"

[tool.setuptools]
packages = ["good_methods"]
"""


def write_module(folder: Path, package: str, source: str) -> None:
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").touch()
    (folder / package / "recipes.py").write_text(source)


def declare(folder: Path, package: str, method: str, module: str) -> None:
    """What pip leaves of an installed package's declaration."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[eyespot.recipes]\n{method} = {module}\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed a package; and two in which something is wrong."""
    folder = tmp_path_factory.mktemp("packages")
    source, target = folder / "source", folder / "target"
    write_module(source, "good_methods", RECIPES)
    (source / "pyproject.toml").write_text(PROJECT)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    write_module(target, "broken_methods", "import a_module_that_is_missing\n")
    declare(target, "broken-methods", "dim_mae", "broken_methods.recipes")
    declare(target, "same-methods", "mae", "good_methods.recipes")
    return target


@pytest.fixture
def packages(installed, tmp_path, monkeypatch):
    """They can be imported; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed)])
    trusted_recipes.take([])
    yield installed
    trusted_recipes.take([])
    for name in [name for name in sys.modules if name.partition(".")[0].endswith("_methods")]:
        del sys.modules[name]


def test_a_recipe_is_called_by_its_name_and_recorded_with_its_package(packages):
    assert "bright_mae_tiny" in eyespot.recipes() and "another_tiny" not in eyespot.recipes()
    run = make_run("bright_mae_tiny")
    assert (run.steps, run.recipe) == (40, "good_methods.recipes:bright_mae_tiny")
    assert make_recorded(run.recipe, "run.json").steps == 40, "who installs a package trusts it"
    assert make_recorded("bright_mae_tiny", "run.json").recipe == run.recipe
    assert eyespot.recipe("bright_mae_tiny", steps=7).recipe == "good_methods.recipes:bright_mae_tiny"


def test_every_command_calls_it_so_however_it_was_named(packages, tmp_path):
    (tmp_path / "run.toml").write_text('recipe = "bright_mae_tiny"\n')
    whole = "good_methods.recipes:bright_mae_tiny"
    (tmp_path / "run.json").write_text(json.dumps({"recipe": whole, "run": to_values(make_run(whole))}))
    for words in (["bright_mae_tiny"], ["--config", "run.toml"], ["--from", "run.json", "--config", "run.toml"]):
        for command in (asked(words, "x"), asked(words, "x", meant)):
            assert command.recipe == whole
    assert eyespot.recipe(config="run.toml").recipe == whole


def test_only_what_a_package_declares_as_recipes_is_called_for_a_file(packages):
    for other in ("good_methods.recipes:another_tiny", "good_methods:bright_mae_tiny", "os:bright_mae_abort"):
        with pytest.raises(UserError, match="add --trust-recipe"):
            make_recorded(other, "run.json")
    assert "good_methods" not in sys.modules, "nothing was imported"
    with pytest.raises(UserError, match=r"has no such recipe; it has bright_mae_tiny$"):
        make_recorded("good_methods.recipes:bright_mae_pid", "run.json")


def test_our_recipes_need_no_package(packages):
    make_run("mae_tiny")
    assert not any(name.endswith("_methods.recipes") for name in sys.modules)


def test_what_is_wrong_is_one_line(packages):
    with pytest.raises(
        UserError, match=r"^package broken-methods: method dim_mae of broken_methods\.recipes: cannot be im"
    ) as e:
        make_run("dim_mae_tiny")
    assert "ModuleNotFoundError: No module named 'a_module_that_is_missing'" in str(e.value)
    with pytest.raises(UserError, match=r"bright_mae_tinny': package good-methods: .* it has bright_mae_tiny$"):
        make_run("bright_mae_tinny")
    with pytest.raises(UserError, match="perhaps you meant bright_mae_tiny"):
        make_run("brigt_mae_tiny")


def test_the_list_tells_them_and_survives_those_that_fail(packages, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["recipes"]) == 0
    said = capsys.readouterr()
    assert "bright_mae_tiny" in said.out and "package good-methods" in said.out
    broken, same = sorted(said.err.splitlines())
    assert "package broken-methods: method dim_mae" in broken
    assert same.endswith(
        "method mae of good_methods.recipes: is called like one of eyespot's own; give it another name"
    )
    assert main(["recipes", "bright_mae"]) == 0
    said = capsys.readouterr().out
    assert "Package: good-methods" in said and "bright_mae_tiny: MAE on digits, in short." in said


def test_a_method_that_two_packages_declare_is_nobodys(packages, tmp_path, monkeypatch):
    declare(tmp_path / "theirs", "other-methods", "bright_mae", "good_methods.recipes")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "theirs"), *sys.path])
    found, wrong = installed_recipes.methods()
    assert "bright_mae" not in [method.name for method in found]
    assert (
        "method bright_mae: good-methods and other-methods both declare it; name its recipes as module:function"
        in wrong
    )


def test_what_pip_has_left_of_a_package_is_none(packages, tmp_path, monkeypatch):
    (tmp_path / "place" / "~left.dist-info").mkdir(parents=True)
    declare(tmp_path / "place", "nameless", "left_mae", "good_methods.recipes")
    (tmp_path / "place" / "nameless-1.0.dist-info" / "METADATA").unlink()
    declare(tmp_path / "place", "odd", "odd_mae", "good_methods.recipes")
    (tmp_path / "place" / "odd-1.0.dist-info" / "entry_points.txt").write_text("[eyespot.recipes]\nno value\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "place"), *sys.path])
    assert [method.name for method in installed_recipes.methods()[0]] == ["bright_mae", "dim_mae"]


def test_a_strangers_folder_is_not_installed_by_standing_in_it(tmp_path, monkeypatch):
    """``python -m`` looks into the current folder first: a run folder could bring a package and its declaration."""
    module = "stranger_methods.recipes"
    write_module(tmp_path, "stranger_methods", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    declare(tmp_path, "stranger-methods", "odd_mae", module)
    monkeypatch.chdir(tmp_path)
    for first in ("", str(tmp_path), "."):
        monkeypatch.setattr(sys, "path", [first, *sys.path])
        importlib.invalidate_caches()
        assert "odd_mae" not in [method.name for method in installed_recipes.methods()[0]]
        with pytest.raises(UserError, match="add --trust-recipe"):
            make_recorded(f"{module}:odd_mae_tiny", "run.json")
    assert not (tmp_path / "ran").exists()


def test_an_installed_module_is_not_taken_from_the_current_folder(packages, tmp_path, monkeypatch):
    write_module(tmp_path, "good_methods", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert make_recorded("good_methods.recipes:bright_mae_tiny", "run.json").steps == 40
    assert not (tmp_path / "ran").exists() and sys.path[0] == ""


def test_names_are_read_without_torch_or_imports(packages):
    script = (
        "import sys; from eyespot.pretrain import installed_recipes as i; "
        "print(*(m.name for m in i.methods()[0])); sys.exit('torch' in sys.modules or 'good_methods' in sys.modules)"
    )
    path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "bright_mae dim_mae" in done.stdout, done.stderr


@pytest.mark.thorough
def test_a_run_of_it_can_be_judged_without_saying_more(packages, digits, tmp_path):
    small = ["--steps", "2", "--optim.warmup-steps", "1", "--no-track", "--device", "cpu"]
    assert main(["pretrain", "bright_mae_tiny", "--data.shards", str(digits), "--run-dir", "run", *small]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe"] == "good_methods.recipes:bright_mae_tiny"
    assert record["own_code"]["file"] == str(packages / "good_methods" / "recipes.py")
    assert main(["eval", "knn", "run", str(digits), "--device", "cpu"]) == 0
    assert main(["pretrain", "--from", "run", "--run-dir", "again", *small]) == 0
    assert {"bright_mae_tiny"}.isdisjoint(recipe_names())
