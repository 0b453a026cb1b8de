"""Recipes and runs from Python."""

import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import eyespot
from eyespot.cluster.python_api.runs import nested
from eyespot.cluster.start_run import requested
from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.run_json import to_values
from eyespot.pretrain.run_record import RunRecord


@pytest.fixture(autouse=True)
def own_log(monkeypatch):
    monkeypatch.setattr(logging.getLogger("eyespot"), "handlers", [])


def small(digits: Path, run_dir: Path, **more) -> Run:
    settings = {"encoder.name": "test_vit", "encoder.patch_size": 4, "data.batch_size": 16, "optim.warmup_steps": 0}
    more = {"steps": 3, "log_every": 1, "track": False, "device": "cpu", **more}
    return eyespot.recipe("mae_tiny", settings, data={"shards": digits}, run_dir=run_dir, **more)


def test_settings_become_the_run_that_flags_do():
    words = ["mae_tiny", "--steps", "7", "--optim.lr", "0.5", "--no-track", "--optim.betas", "0.8", "0.9"]
    of_flags = requested(words)[1]
    made = eyespot.recipe("mae_tiny", {"optim.lr": np.float64(0.5)}, steps=7, track=False, optim={"betas": (0.8, 0.9)})
    assert made == of_flags and made.recipe == "mae_tiny"


def test_a_config_may_be_given_whole():
    view = RandomView(scale=(0.5, 1.0), flip=0.0, sobel=0.3)
    assert eyespot.recipe("simclr_tiny", objective={"view": view}).objective.view == view


def test_the_length_may_be_in_epochs(digits, tmp_path):
    run = eyespot.recipe("mae_tiny", data={"shards": digits, "batch_size": 100}, epochs=2)
    assert run.steps == round(2 * 1438 / 100)


def test_names_with_dots_are_dicts_in_dicts():
    found = nested({"a.b": 1, "a": {"c.d": Path("x")}, "e": {"f": (1, 2)}})
    assert found == {"a": {"b": 1, "c": {"d": "x"}}, "e": {"f": [1, 2]}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"data.bach_size": 3},
            r"recipe mae_tiny: there is no setting data\.bach_size; perhaps you meant data\.batch_",
        ),
        ({"qqqq": 3}, r"there is no setting qqqq; there are objective, encoder, "),
        ({5: 3}, "setting 5: is no name"),
        ({"recipe": "x"}, "there is no setting recipe"),
        ({"data.batch_size": 0}, r"recipe mae_tiny: data\.batch_size 0: must be 1 or more"),
        ({"data.batch_size": "many"}, r"recipe mae_tiny: data\.batch_size 'many': expected int"),
        ({"data": 3}, "recipe mae_tiny: data 3: expected an object with its fields"),
        ({"optim.warmup_steps": 90, "steps": 10}, r"optim\.warmup_steps 90: the warm-up is longer"),
        ({"data.shards": "a", "data": {"shards": "b"}}, r"data\.shards: is given twice"),
    ],
)
def test_what_is_wrong_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        eyespot.recipe("mae_tiny", settings)


def test_all_recipes_are_listed():
    assert {"mae_tiny", "simclr_tiny"} <= set(eyespot.recipes())


def test_a_run_trains_says_how_it_ended_and_goes_on(digits, tmp_path):
    run = small(digits, tmp_path / "run", stop_after=2)
    first = eyespot.fit(run)
    assert (first.outcome, first.run_dir) == ("done", tmp_path / "run")
    run.stop_after, run.resume = None, "auto"
    trained = eyespot.fit(run)
    assert [line["step"] for line in trained.metrics() if "loss" in line] == [1, 2, 3]
    record = RunRecord.read(RunRecord.path(tmp_path / "run"))
    assert record.recipe == "mae_tiny" and "recipe" not in record.run and "recipe" not in to_values(run)
    page = trained._repr_html_()
    assert "<table>" in page and "loss" in page and "data:image/png;base64," in page and "digest" not in page


def test_a_run_of_no_recipe_must_be_called_something(digits, tmp_path):
    run = small(digits, tmp_path / "run")
    run.recipe = ""
    with pytest.raises(UserError, match="recipe '': the run was made by none"):
        eyespot.fit(run)
    assert not (tmp_path / "run").exists()
    assert eyespot.fit(run, recipe="mae_tiny").outcome == "done"


def test_a_run_in_another_thread_is_refused(digits, tmp_path):
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match="fit: runs in the main thread only"):
        pool.submit(eyespot.fit, small(digits, tmp_path / "run")).result()


def test_a_wrong_folder_is_refused_as_the_command_refuses_it(tmp_path):
    with pytest.raises(UserError, match=r"shards .*nothing: no such folder"):
        eyespot.fit(small(tmp_path / "nothing", tmp_path / "run"))


def test_a_config_file_lies_below_what_is_given(tmp_path, capsys):
    (tmp_path / "a.toml").write_text('recipe = "mae_tiny"\nsteps = 500\n[optim]\nlr = 0.5\nclip = 2.0\n')
    (tmp_path / "b.toml").write_text("seed = 4\n[optim]\nlr = 0.25\n")
    run = eyespot.recipe(config=[tmp_path / "a.toml", str(tmp_path / "b.toml")], optim={"clip": 3.0})
    assert run.recipe == "mae_tiny"
    assert (run.steps, run.optim.warmup_steps, run.optim.lr, run.optim.clip, run.seed) == (500, 50, 0.25, 3.0, 4)
    assert eyespot.recipe("mae_tiny", config=tmp_path / "a.toml", steps=100).optim.warmup_steps == 10
    with pytest.raises(UserError, match=r"a\.toml:2: epochs 2.*|^epochs 2"):
        eyespot.recipe("mae_tiny", config=tmp_path / "a.toml", steps=3, epochs=2)
    with pytest.raises(UserError, match=r"^recipe mae_tiny: steps 'x': expected int"):
        eyespot.recipe(config=tmp_path / "a.toml", steps="x")
    (tmp_path / "b.toml").write_text("[optim]\nlr = -1\n")
    with pytest.raises(UserError, match=r"b\.toml:2: optim\.lr -1\.0: must be above 0"):
        eyespot.recipe("mae_tiny", config=tmp_path / "b.toml")
    capsys.readouterr()


def test_some_settings_of_a_view_leave_its_others(digits):
    run = eyespot.recipe("tcn_tiny", objective={"view": {"flip": 0.0}})
    assert run.objective.view.clip is not None and run.objective.view.flip == 0.0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda: eyespot.recipe(5), r"^recipe: a int; give its name"),
        (lambda: eyespot.recipe(), r"^recipe: none is given; give its name: eyespot\.recipe"),
        (lambda: eyespot.recipe("mae_tiny", 3), "^settings: a int; give a dict"),
        (lambda: eyespot.recipe("mae_tiny", config=3), "^config: a int; give a TOML file"),
        (lambda: eyespot.recipe("mae_tiny", epochs="3"), "^epochs '3': expected a number"),
        (lambda: eyespot.fit(None), r"^run: a NoneType; make it with eyespot\.recipe"),
        (lambda: eyespot.fit(eyespot.recipe("mae_tiny"), recipe=3), "^recipe: a int; give the name"),
        (lambda: eyespot.load(None), "^source: a NoneType; give a run folder"),
        (lambda: eyespot.embed(3, []), "^encoder: a int; give what eyespot.load returns"),
        (lambda: eyespot.recipe("mae_tiny", data={"shards": "x"}, epochs=-1), r"^epochs -1\.0: must be above 0"),
    ],
)
def test_wrong_kinds_are_one_line(how, message, untyped):
    with pytest.raises(UserError, match=message):
        how()


@pytest.mark.parametrize(("field", "value", "message"), [("steps", "x", "expected int"), ("steps", 0, "1 or more")])
def test_what_was_changed_since_is_checked(field, value, message, untyped):
    run = eyespot.recipe("mae_tiny")
    object.__setattr__(run, field, value)
    with pytest.raises(UserError, match=rf"^run: {field} .*{message}"):
        eyespot.fit(run)


@pytest.mark.thorough
def test_a_script_under_torchrun_trains_on_all_processes(digits, tmp_path):
    script = Path(__file__).parents[2] / "torch_script.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(digits), str(tmp_path / "run")], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0 and done.stdout.count("done") == 2, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["versions"] is not None
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
