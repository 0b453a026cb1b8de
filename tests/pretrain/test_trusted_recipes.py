"""Whose recipes a run folder may name: the flag, wherever it stands, and what is handed to other processes."""

import subprocess
import sys

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import trusted_recipes


@pytest.fixture(autouse=True)
def nobody():
    trusted_recipes.take([])
    yield
    trusted_recipes.take([])


def test_the_flag_may_stand_anywhere_and_often():
    argv = ["eval", "--trust-recipe", "mine.recipes", "knn", "runs/first", "--trust-recipe=theirs:recipe", "data"]
    assert trusted_recipes.take(argv) == ["eval", "knn", "runs/first", "data"]
    assert trusted_recipes.is_trusted("mine.recipes") and trusted_recipes.is_trusted("theirs.inside")
    for other in ("mine", "mine.recipes_of_another", "os", "their"):
        assert not trusted_recipes.is_trusted(other)


def test_each_command_begins_anew():
    trusted_recipes.take(["--trust-recipe", "mine"])
    assert trusted_recipes.take(["report", "runs/first"]) == ["report", "runs/first"]
    assert not trusted_recipes.is_trusted("mine")


@pytest.mark.parametrize(
    "argv", [["--trust-recipe"], ["--trust-recipe="], ["--trust-recipe", "mine/recipes.py"], ["--trust-recipe", "a..b"]]
)
def test_what_names_no_module_is_refused(argv):
    with pytest.raises(UserError, match=r"^--trust-recipe '.*': write it as package\.module"):
        trusted_recipes.take(["report", *argv])


def test_other_processes_are_told():
    trusted_recipes.trust("mine.recipes:one")
    trusted_recipes.trust("theirs")
    assert trusted_recipes.flags() == ("--trust-recipe", "mine.recipes", "--trust-recipe", "theirs")
    assert trusted_recipes.flags("mine.recipes:one") == ("--trust-recipe", "mine.recipes")
    assert trusted_recipes.flags("mae_tiny") == ()


def test_it_costs_no_torch():
    script = "import sys, eyespot.pretrain.trusted_recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
