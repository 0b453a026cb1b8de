"""W&B without a network: what its own logs hold, against metrics.jsonl."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.tracking.mirror import Mirror
from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.tracker import Tracker
from eyespot.pretrain.tracking.wandb_mirror import WandbWriter, _records, held, history_of


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_DIR", raising=False)
    for trap in ("json.py", "wandb/__init__.py"):  # as a stranger's run folder may hold, in which somebody stands
        path = tmp_path / "here" / trap
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path / "here")


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
    assert not (tmp_path / "trapped").exists()
    draw(run_dir, 2)
    for _ in range(2):
        sync(run_dir, "none", wandb="photographs")
    numbers = [
        {key: row[key] for key in ("_step", "train/loss", "optim/lr")} for row in rows(run_dir) if "optim/lr" in row
    ]
    assert numbers == wanted(run_dir)
    assert [row["pictures"]["captions"] for row in rows(run_dir) if "pictures" in row] == [["step 2"]]
    assert held(run_dir, "k") == (319, {2})
    assert sync(run_dir, "none", wandb="photographs") == 0


@pytest.mark.thorough
def test_pictures_take_no_row_of_the_metrics_to_come(tmp_path: Path):
    run_dir = tmp_path / "run"
    log(run_dir, range(3))
    writer = WandbWriter(run_dir, "photographs")
    mirror = Mirror(run_dir, writer)
    for step in (0, 1, 2):
        draw(run_dir, step)
    mirror.push()  # with pictures alone
    draw(run_dir, 30)
    mirror.add_picture("step-00000030.png")
    mirror.push()
    with pytest.raises(UserError, match="another program, perhaps the run itself"):
        Mirror(run_dir, WandbWriter(run_dir, "photographs")).push()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": 0.5, "lr": 0.25}) + "\n" for step in range(3, 12))
    draw(run_dir, 31)
    mirror.add_picture("step-00000031.png")
    mirror.push()
    writer.close()
    told = rows(run_dir)
    assert [row["_step"] for row in told if "optim/lr" in row] == list(range(12))
    shown = [(row["_step"], row["pictures_of_step"]) for row in told if "pictures" in row]
    assert shown == [(2, [0, 1, 2, 30]), (11, [31])]
    assert held(run_dir, "k") == (11, {0, 1, 2, 30, 31})


KILLED = """
import os, signal, sys
from pathlib import Path
from eyespot.pretrain.tracking.tracker import Tracker
run_dir = Path(sys.argv[1])
tracker = Tracker(run_dir, run_key="k", name="n", params={}, tags={}, uri="none", wandb="photographs")
tracker.log(0, {"loss": 0.5})
mirror = tracker._followers[0].mirror
while mirror._offset == 0:
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.thorough
def test_a_killed_run_has_failed_until_it_goes_on(tmp_path: Path):
    run_dir = tmp_path / "run"
    done = subprocess.run([sys.executable, "-P", "-c", KILLED, str(run_dir)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while not exit_codes(run_dir) and time.monotonic() < until:
        time.sleep(0.2)
    assert exit_codes(run_dir) == [1]
    log(run_dir, range(1, 3))
    assert exit_codes(run_dir) == [1, 0]


def exit_codes(run_dir: Path) -> list[int]:
    """With which W&B's logs of the run end, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    logs = sorted(run_dir.glob("wandb/offline-run-*/run-k.wandb"), key=lambda path: path.stat().st_mtime)
    records = [Record.FromString(data) for path in logs for data in _records(path)]
    return [record.exit.exit_code for record in records if record.HasField("exit")]


def draw(run_dir: Path, step: int) -> None:
    (run_dir / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (9, 5)).save(run_dir / "pictures" / f"step-{step:08}.png")


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
    assert "--wandb photographs" in caplog.text
    with pytest.raises((UserError, Outage), match="W&B") as failed:
        sync(run_dir, "none", wandb="photographs")
    assert isinstance(failed.value, Outage) or isinstance(failed.value.__cause__, ConnectionError | TimeoutError)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert sync(run_dir, "none", wandb="photographs") == 1
    assert [row["train/loss"] for row in rows(run_dir)] == [1.0]
