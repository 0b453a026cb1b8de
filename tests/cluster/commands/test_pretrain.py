"""eyespot pretrain as a person calls it: what watches a run, that it reaches MLflow, what it reads of the shards."""

import json
import logging
import subprocess
import sys
import tomllib
from pathlib import Path

import opened
import pytest

from eyespot.cluster import run_length
from eyespot.cluster.cli import main
from eyespot.pretrain.tracking.metric_groups import grouped


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
        values = [point.value for point in client.get_metric_history(run.info.run_id, grouped(name))]
        assert values == [first[name], second[name]], name


def test_nothing_watches_by_default(train):
    (line,) = train("--no-track")
    assert not [name for name in line if name.startswith(("online/", "health/"))]


def test_print_config_prints_the_file_that_makes_the_same_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_length._say.cache_clear()  # it is said once in a process, which may have been another test's
    words = ["pretrain", "mae_tiny", "--steps", "30", "--data.shards", "data/digits", "--print-config"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "30 steps, not 1,000" in said.err and tomllib.loads(said.out)["optim"]["warmup_steps"] == 3
    (tmp_path / "run.toml").write_text(said.out)
    assert main(["pretrain", "--print-config", "--config", "run.toml"]) == 0
    again = capsys.readouterr()
    assert again.out == said.out and "steps, not" not in again.err
    monkeypatch.setenv("MY_TOKEN", "photographs")
    assert main(["pretrain", "--print-config", "--config", "run.toml", "--wandb", "photographs"]) == 0
    assert "warning: wandb: holds a secret and is written as ***; say it anew" in capsys.readouterr().err
    assert main(["pretrain", "--config", "run.toml", "--data.shards", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err and list(tmp_path.iterdir()) == [tmp_path / "run.toml"]


WATCHED = ("--monitor-every", "1", "--picture-every", "1", "--log-every", "1", "--steps", "1", "--device", "cpu")


def opened_by(launcher: list[str], recipe: str, digits: Path, folder: Path) -> dict[str, int]:
    """What a run with pictures and monitors opens and hashes from its command to its end, all processes together."""
    words = ["pretrain", recipe, "--data.shards", str(digits), "--run-dir", str(folder / "run"), "--no-track", *WATCHED]
    script = [*launcher, opened.__file__, str(folder / "notes"), *words]
    done = subprocess.run(script, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    assert "online/knn" in line and "health/collapsed" in line
    return opened.opened(folder / "notes")


def test_shards_are_opened_once_from_the_command_to_the_end(digits, tmp_path):
    """Clusters, pictures and the first monitor look at train, the second one at test, too."""
    found = opened_by([sys.executable], "deepcluster_tiny", digits, tmp_path)
    once = {f"{what} {split}/index.npy": 1 for what in ("open", "hash") for split in ("train", "test")}
    assert found == {**once, "open train/manifest.json": 1, "open test/manifest.json": 1}


def test_one_of_two_ranks_of_a_node_hashes(digits, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = opened_by(torchrun, "mae_tiny", digits, tmp_path)
    assert found == {
        **{f"open {split}/{name}": 2 for split in ("train", "test") for name in ("manifest.json", "index.npy")},
        **{f"hash {split}/index.npy": 1 for split in ("train", "test")},
    }
