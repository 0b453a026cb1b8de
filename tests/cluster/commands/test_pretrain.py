"""eyespot pretrain as a person calls it: what watches a run, and that it reaches MLflow."""

import json
import logging

import pytest

from eyespot.cluster.cli import main


@pytest.fixture
def train(digits, tmp_path, monkeypatch):
    def call(*flags: str) -> list[dict]:
        words = f"pretrain mae_tiny --data.shards {digits} --run-dir {tmp_path / 'run'} --data.batch-size 32"
        words += " --steps 2 --log-every 2 --picture-every 0 --device cpu"
        assert main([*words.split(), *flags]) == 0
        return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    monkeypatch.setattr(logging.getLogger("eyespot"), "handlers", [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return call


def test_monitors_watch_when_asked_and_mlflow_takes_their_names(train, tmp_path):
    from mlflow import MlflowClient

    first, second = train("--monitor-every", "1")
    watched = {name for name in first if "/" in name}
    assert watched == {name for name in second if "/" in name}
    assert watched >= {"online/knn", "online/linear", "health/effective_rank_centered", "health/collapsed"}
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments() if e.name == "eyespot"])
    for name in watched:
        values = [point.value for point in client.get_metric_history(run.info.run_id, name)]
        assert values == [first[name], second[name]], name


def test_nothing_watches_by_default(train):
    (line,) = train("--no-track")
    assert not [name for name in line if name.startswith(("online/", "health/"))]
