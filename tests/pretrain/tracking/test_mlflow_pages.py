"""Marks of training runs in a real SQLite store; what the pages show: tests/eval/results/test_mlflow_children.py."""

from pathlib import Path

from eyespot.pretrain.tracking.mlflow_mirror import open_store
from eyespot.pretrain.tracking.mlflow_pages import mark_as_training


def test_a_run_makes_one_model_however_often_it_connects(tmp_path: Path):
    client = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment_id = client.create_experiment("photographs")
    first, second = (client.create_run(experiment_id) for _ in range(2))
    for _ in range(3):
        mark_as_training(client, client.get_run(first.info.run_id))
    found = client.search_runs([experiment_id], max_results=10)
    made = {run.info.run_id: len(run.outputs.model_outputs) for run in found}
    assert made == {first.info.run_id: 1, second.info.run_id: 0}
    (model,) = client.search_logged_models([experiment_id])
    assert (model.name, model.source_run_id) == ("encoder", first.info.run_id)
