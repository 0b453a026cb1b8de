"""What is looked up is what the commands take."""

import contextlib
import io
import re

import pytest

from eyespot.cluster.arguments import parse
from eyespot.cluster.cli import COMMANDS
from eyespot.cluster.completion.look_up import flags_by_recipe, flags_of
from eyespot.cluster.run_length import Length
from eyespot.pretrain.recipe_lookup import all_names, make_run, recipe_names


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


def test_a_package_that_fails_takes_its_own_recipes_only(tmp_path, monkeypatch):
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[eyespot.recipes]\nodd_mae = odd_recipes_that_fail\n")
    text = "def odd_mae_tiny():\n    raise RuntimeError('no disk')\n\ndef odd_mae_none():\n    return None\n"
    (tmp_path / "odd_recipes_that_fail.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert {"odd_mae_tiny", "odd_mae_none"} <= set(all_names()) - set(recipe_names())
    assert set(flags_by_recipe()) == set(recipe_names())


def test_every_command_and_recipe_is_there(index):
    assert index.is_fresh
    assert set(COMMANDS) - {"completion"} <= set(index.commands)
    assert all(index.commands[name] for name in COMMANDS if name not in ("completion", "curate", "shards", "recipes"))
    assert set(index.recipes) >= set(recipe_names())
    assert index.run["--device"] == ["auto", "cpu", "cuda"] and index.run["--no-compile"] is None
    assert index.run["--steps"] == [] and "--objective.mask-ratio" in index.recipes["mae_tiny"]
    assert index.commands["launch"]["--container-runtime"] == ["pyxis", "apptainer"]
    assert index.commands["launch"]["--dry-run"] is None and index.commands["launch"]["--no-doctor"] is None
    assert index.commands["status"] == {"--watch": [], "--json": None}
    assert "--run-dir" not in index.commands["launch"], "of an example"
    assert {"linear", "finetune", "zero-shot", "compare", "select"} <= set(index.protocols)
    assert "--resize" in index.commands["shards pack"] and "--gpus" in index.commands["plan"]
