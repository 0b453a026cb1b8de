"""Recipes and runs from Python."""

import logging
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
