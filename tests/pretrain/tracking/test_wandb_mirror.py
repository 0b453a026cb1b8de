"""W&B without a network: what its own logs hold, against metrics.jsonl."""

import json
from pathlib import Path

import pytest
from PIL import Image

from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.tracker import Tracker
from eyespot.pretrain.tracking.wandb_mirror import _records, held, history_of


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_DIR", raising=False)


def log(run_dir: Path, steps: range) -> None:
    params = {"optim": {"lr": 0.1}}
    tracker = Tracker(run_dir, run_key="k", name="n", params=params, tags={}, uri="none", wandb="photographs")
    for step in steps:
        tracker.log(step, {"loss": 1 / (step + 3), "digest": "ab", "lr": 0.1})
    tracker.close("FINISHED", wait_seconds=120.0)


def rows(run_dir: Path) -> list[dict]:
    """Of all logs of the run, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    logs = sorted(run_dir.glob("wandb/offline-run-*/run-k.wandb"), key=lambda path: path.stat().st_mtime)
    return [row for path in logs for data in _records(path) if (row := history_of(Record.FromString(data)))]


def wanted(run_dir: Path) -> list[dict]:
    found = []
    for text in (run_dir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        numbers = {grouped(name): value for name, value in line.items() if name in ("loss", "lr")}
        found.append({"_step": line["step"], **numbers})
    return found


@pytest.mark.thorough
def test_each_row_once_through_a_resume(tmp_path: Path):
    run_dir = tmp_path / "run"
    log(run_dir, range(300))
    log(run_dir, range(290, 320))
    (run_dir / "pictures").mkdir()
    Image.new("RGB", (9, 5)).save(run_dir / "pictures" / "step-00000002.png")
    for _ in range(2):
        sync(run_dir, "none", wandb="photographs")
    numbers = [
        {key: row[key] for key in ("_step", "train/loss", "optim/lr")} for row in rows(run_dir) if "optim/lr" in row
    ]
    assert numbers == wanted(run_dir)
    assert [row["pictures"]["caption"] for row in rows(run_dir) if "pictures" in row] == ["step 2"]
    assert held(run_dir, "k") == (319, {2})
    assert sync(run_dir, "none", wandb="photographs") == 0


@pytest.mark.thorough
def test_a_server_that_is_away_costs_the_run_nothing(tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run_dir = tmp_path / "run"
    tracker = Tracker(run_dir, run_key="k", name="n", params={}, tags={}, uri="none", wandb="photographs")
    tracker.log(0, {"loss": 1.0})
    tracker.close("FINISHED", wait_seconds=2.0)
    assert "W&B does not have all of this run yet; send the rest with: eyespot sync" in caplog.text
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert sync(run_dir, "none", wandb="photographs") == 1
    assert [row["train/loss"] for row in rows(run_dir)] == [1.0]
