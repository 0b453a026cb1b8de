import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyespot.cluster.cli import main
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.tracking.tracker import Tracker


def test_sync_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = tmp_path / "run"
    tracker = Tracker(run_dir, run_key="k", name="n", params={}, tags={}, uri="none")
    for step in range(5):
        tracker.log(step, {"loss": 1.0})
    tracker.close("FINISHED")
    uri = f"sqlite:///{tmp_path}/m.db"
    (run_dir / "run.json").write_text('{"recipe": "x", "run": {"wandb": "theirs", "tensorboard": true}}')
    for sent in (5, 0):  # what a run folder says sends nothing anywhere
        assert main(["sync", str(run_dir), "--uri", uri]) == 0
        assert capsys.readouterr().out == f"{plural(sent, 'line')} of metrics and 0 results sent to {uri}\n"
    assert not (run_dir / "wandb").exists() and not (run_dir / "tensorboard").exists()
    (run_dir / "run.json").write_text("damaged")
    new = f"sqlite:///{shutil.copy(tmp_path / 'm.db', tmp_path / 'new.db')}"
    MlflowClient(new).delete_run(MlflowClient(new).search_runs(["1"])[0].info.run_id)
    assert main(["sync", str(run_dir), "--uri", new, "--tensorboard"]) == 0
    told = f"5 lines of metrics and 0 results sent to {new}, {run_dir}/tensorboard\n"
    assert capsys.readouterr().out == told, "lines are counted once, whatever the number of places"


def test_a_server_that_is_down_is_no_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = tmp_path / "run"
    tracker = Tracker(run_dir, run_key="k", name="n", params={}, tags={}, uri="none")
    tracker.log(0, {"loss": 1.0})
    tracker.close("FINISHED")
    assert main(["sync", str(run_dir), "--uri", "http://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert "run the command again when the server answers" in error and error.count("\n") == 1


def test_wrong_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sync", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no metrics.jsonl inside" in error and error.count("\n") == 1
