"""Marks of training runs in a real SQLite store; what the pages show: tests/eval/results/test_mlflow_children.py."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.mlflow_mirror import NAMES_TAG, open_store
from eyespot.pretrain.tracking.mlflow_pages import NOTE_TAG, mark_as_training, note
from eyespot.pretrain.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without experiments: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def uri(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{shutil.copy(empty, tmp_path / 'mlflow.db')}"


def test_a_run_makes_one_model_however_often_it_connects(uri: str):
    client = open_store(uri)
    experiment_id = client.create_experiment("photographs")
    first, second = (client.create_run(experiment_id) for _ in range(2))
    for _ in range(3):
        mark_as_training(client, client.get_run(first.info.run_id))
    found = client.search_runs([experiment_id], max_results=10)
    made = {run.info.run_id: len(run.outputs.model_outputs) for run in found}
    assert made == {first.info.run_id: 1, second.info.run_id: 0}
    (model,) = client.search_logged_models([experiment_id])
    assert (model.name, model.source_run_id) == ("encoder", first.info.run_id)


def written(run_dir: Path, steps: range = range(3)) -> Path:
    """A run that was logged offline, with a picture of a step and another one."""
    text = note(
        command="eyespot pretrain mae_tiny", recipe="mae_tiny", method="MAE", papers=["2111.06377"], run_dir=run_dir
    )
    tags = {"data": "digits", "manifest_sha256": "ab" * 32, "num_samples": "1000", NOTE_TAG: text}
    params = {"data": {"shards": "data/digits"}, "optim": {"lr": 0.1}}
    tracker = Tracker(run_dir, run_key="key", name="run", params=params, tags=tags, uri="none")
    for step in steps:
        tracker.log(step, {"loss": 0.5, "lr": 0.1, "online/knn": 0.9, "data_wait_share": 0.25, "queue": 3})
    tracker.close("FINISHED")
    return run_dir


def found(uri: str) -> tuple[MlflowClient, Run]:
    client = MlflowClient(uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return client, run


def test_what_the_page_of_a_run_shows(tmp_path: Path, uri: str):
    run_dir = written(tmp_path / "run")
    (run_dir / "pictures").mkdir()
    Image.new("RGB", (600, 300)).save(run_dir / "pictures" / "step-00000002.png")
    Image.new("RGB", (8, 8)).save(run_dir / "pictures" / "other.png")
    for text in ("<p>one</p>", "<p>two</p>"):
        (run_dir / "report.html").write_text(text)
        sync(run_dir)
    client, run = found(uri)
    assert set(run.data.metrics) == {"train/loss", "optim/lr", "online/knn", "system/data_wait_share", "train/queue"}
    assert client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", ("ab" * 18))
    assert "data/digits" in data.dataset.source and "1000" in data.dataset.profile
    assert "https://arxiv.org/abs/2111.06377" in run.data.tags[NOTE_TAG] and run.data.tags["mlflow.user"]
    paths = {
        artifact.path for place in ("images", "pictures") for artifact in client.list_artifacts(run.info.run_id, place)
    }
    grid = sorted(path for path in paths if path.startswith("images/pictures+step+2+timestamp+"))
    assert len(paths) == 3 and [path.rpartition(".")[2] for path in grid] == ["webp", "png"]
    report = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
    assert Path(report).read_text() == "<p>two</p>"


def test_what_people_wrote_stays(tmp_path: Path, uri: str):
    place = (tmp_path / "mlartifacts").as_uri()
    open_store(uri).create_experiment("eyespot", place, tags={"mlflow.experimentKind": "mine"})
    run_dir = written(tmp_path / "run")
    sync(run_dir)
    client, run = found(uri)
    client.set_tag(run.info.run_id, NOTE_TAG, "my own words")
    written(run_dir, range(5))
    sync(run_dir)
    client, again = found(uri)
    assert again.data.tags[NOTE_TAG] == "my own words"
    assert client.get_experiment(again.info.experiment_id).tags["mlflow.experimentKind"] == "mine"


def test_a_run_of_an_older_version_keeps_its_names(tmp_path: Path, uri: str):
    run_dir = written(tmp_path / "run")
    sync(run_dir)
    client, run = found(uri)
    client.delete_tag(run.info.run_id, NAMES_TAG)  # as if it had been begun without
    written(run_dir, range(5))
    sync(run_dir)
    history = {
        name: [p.step for p in client.get_metric_history(run.info.run_id, name)] for name in ("loss", "train/loss")
    }
    assert history == {"loss": [3, 4], "train/loss": [0, 1, 2]}
