"""The thread by itself; with a real server: test_mlflow_mirror.py, with a full disk: test_tensorboard_mirror.py."""

import time
from pathlib import Path

import pytest

from eyespot.pretrain.tracking.follower import Follower
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord
from eyespot.pretrain.tracking.tensorboard_mirror import TensorboardWriter


def run_of(folder: Path) -> Path:
    MlflowRecord(run_key="k", name="n", experiment="e").write(folder)
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 2.5, "loss": 0.5}\n')
    return folder


def test_the_end_brings_all_and_says_so(tmp_path: Path):
    follower = Follower(run_of(tmp_path), TensorboardWriter(tmp_path))
    assert follower.close(30.0, 0.0)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.stat().st_size > 24


def test_the_end_does_not_wait_longer_than_it_may(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run_of(tmp_path)
    (tmp_path / "tensorboard").touch()  # where the folder would be
    follower = Follower(tmp_path, TensorboardWriter(tmp_path))
    start = time.monotonic()
    assert not follower.close(1.0, 0.0) and time.monotonic() - start < 15
    assert caplog.text.count("trying again") == 1
