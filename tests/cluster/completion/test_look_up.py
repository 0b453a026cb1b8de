"""What is looked up is what the commands take."""

import contextlib
import io
import re

import pytest

from eyespot.cluster.arguments import parse
from eyespot.cluster.cli import COMMANDS
from eyespot.cluster.completion.look_up import flags_of
from eyespot.cluster.run_length import Length
from eyespot.pretrain.recipe_lookup import make_run, recipe_names


def helped(run) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        parse(Length, ["--help"], "x", default=Length(run=run))
    return re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())


@pytest.mark.parametrize("recipe", ["mae_tiny", "tcn_tiny"])
def test_the_flags_of_a_recipe_are_those_of_its_help(recipe, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    found = re.findall(r"^│ (?:-\w, )?(--[\w.-]+)(?:, (--[\w.-]+))?", helped(make_run(recipe)), re.MULTILINE)
    in_help = {flag for pair in found for flag in pair if flag} - {"--help"}
    assert set(flags_of(make_run(recipe))) == in_help and len(in_help) > 80


def test_every_command_and_recipe_is_there(index):
    assert index.is_fresh
    assert set(COMMANDS) - {"completion"} <= set(index.commands)
    assert all(index.commands[name] for name in COMMANDS if name not in ("completion", "shards", "recipes"))
    assert set(index.recipes) >= set(recipe_names())
    assert index.run["--device"] == ["auto", "cpu", "cuda"] and index.run["--no-compile"] is None
    assert index.run["--steps"] == [] and "--objective.mask-ratio" in index.recipes["mae_tiny"]
    assert index.commands["launch"]["--container-runtime"] == ["pyxis", "apptainer"]
    assert index.commands["launch"]["--dry-run"] is None and index.commands["launch"]["--no-doctor"] is None
    assert index.commands["status"] == {"--watch": [], "--json": None}
    assert "--run-dir" not in index.commands["launch"], "of an example"
    assert {"linear", "finetune", "zero-shot", "compare"} <= set(index.protocols)
    assert "--resize" in index.commands["shards pack"] and "--gpus" in index.commands["plan"]
