import sys
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.pretrain.tracking import mirrors
from eyespot.pretrain.tracking.mirrors import check_mirrors, sync, writers_of
from eyespot.pretrain.tracking.tracker import Tracker


def test_which_places_a_run_has(tmp_path: Path):
    every = writers_of(tmp_path, "http://me:secret@host", tensorboard=True, wandb="photographs")
    assert [writer.name for writer in every] == ["MLflow", "TensorBoard", "W&B"]
    assert [writer.is_file for writer in every[:2]] == [False, True] and "secret" not in every[0].place
    assert writers_of(tmp_path, "none", tensorboard=False, wandb="") == []


def test_a_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tensorboard" / "run-1").mkdir(parents=True)  # as W&B leaves one of its own where it ran
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tensorboard", raising=False)
    with pytest.raises(UserError, match="tensorboard: the package is not installed"):
        check_mirrors(tensorboard=True, wandb="")


def test_a_place_that_is_down_keeps_nothing_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(tmp_path / "run", run_key="k", name="n", params={}, tags={}, uri="none")
    for step in range(3):
        tracker.log(step, {"loss": 1.0})
    tracker.close("FINISHED")
    with pytest.raises((UserError, Outage), match=r"127\.0\.0\.1:9"):
        sync(tmp_path / "run", "http://127.0.0.1:9", tensorboard=True)
    assert sync(tmp_path / "run", "none", tensorboard=True) == 0, "TensorBoard has all"


def test_a_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirrors.importlib.util, "find_spec", lambda name: None)
    check_mirrors(tensorboard=False, wandb="")
    with pytest.raises(
        UserError, match=r"tensorboard: the package is not installed; pip install 'eyespot\[tensorboard\]'"
    ):
        check_mirrors(tensorboard=True, wandb="")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"eyespot\[wandb\]"):
        sync(tmp_path, "none", wandb="photographs")
