from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.tracking import mirrors
from eyespot.pretrain.tracking.mirrors import check_mirrors, sync, writers_of


def test_which_places_a_run_has(tmp_path: Path):
    every = writers_of(tmp_path, "http://me:secret@host", tensorboard=True, wandb="photographs")
    assert [writer.name for writer in every] == ["MLflow", "TensorBoard", "W&B"]
    assert [writer.is_file for writer in every[:2]] == [False, True] and "secret" not in every[0].place
    assert writers_of(tmp_path, "none", tensorboard=False, wandb="") == []


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
