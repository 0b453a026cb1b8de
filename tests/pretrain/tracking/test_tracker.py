import json
import logging
import math
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.mlflow_mirror import open_store
from eyespot.pretrain.tracking.tracker import Tracker


def open_tracker(run_dir: Path, uri: str | None = "none") -> Tracker:
    return Tracker(run_dir, run_key="k", name="n", params={"lr": 1}, tags={}, uri=uri)


def steps_of(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "eyespot")


def test_a_line_is_in_the_file_at_once(tmp_path: Path):
    tracker = open_tracker(tmp_path / "run")
    assert tracker.last_step == -1
    before = time.time()
    tracker.log(0, {"loss": 0.25, "sample_digest": "ab", "samples_seen": 8})
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_bytes())
    assert before - 1 < line.pop("time") < time.time() + 1
    assert line == {"step": 0, "loss": 0.25, "sample_digest": "ab", "samples_seen": 8}
    tracker.close("FINISHED")


def test_replayed_steps_that_agree(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = open_tracker(tmp_path)
    for step in range(10):
        first.log(step, {"loss": math.nan if step == 8 else 1 / (step + 3)})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 10, "lo')  # killed in the middle of a write
    again = open_tracker(tmp_path)
    assert again.last_step == 9
    for step in range(6, 12):
        again.log(step, {"loss": math.nan if step == 8 else 1 / (step + 3)})
    assert steps_of(tmp_path) == list(range(12))
    assert [record.message for record in caplog.records] == ["the 4 re-run steps agreed with metrics.jsonl bit for bit"]


def test_replayed_steps_that_differ_by_rounding(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Another number of ranks adds in another order."""
    first = open_tracker(tmp_path)
    for step in range(4):
        first.log(step, {"loss": 0.5})
    again = open_tracker(tmp_path)
    for step in range(2, 5):
        again.log(step, {"loss": 0.5 * (1 + 2**-20)})
    assert [record.message for record in caplog.records] == ["the 2 re-run steps agreed with metrics.jsonl to 1e-06"]


def test_replayed_steps_that_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = open_tracker(tmp_path)
    for step in range(10):
        first.log(step, {"loss": 0.5})
    again = open_tracker(tmp_path)
    for step in range(5, 12):
        again.log(step, {"loss": 0.5 if step == 5 else 0.51})
    assert [record.message for record in caplog.records] == [
        "the resumed run differs: at step 6 the loss was 0.5 and is now 0.51"
    ]
    assert steps_of(tmp_path) == list(range(12))


def test_a_dead_server_costs_the_run_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    uri = "http://me:secret@127.0.0.1:9"
    tracker = open_tracker(tmp_path / "run", uri)
    start = time.monotonic()
    for step in range(2000):
        tracker.log(step, {"loss": 1.0})
    assert time.monotonic() - start < 20
    deadline = time.monotonic() + 60

    # urllib3 speaks of each retry, too, where an earlier test has given its loggers a voice.
    def ours():
        return [record.message for record in caplog.records if record.name == "eyespot"]

    while not ours() and time.monotonic() < deadline:
        time.sleep(0.1)
    start = time.monotonic()
    tracker.close("FINISHED", wait_seconds=2.0)
    tracker.close("FAILED")
    assert time.monotonic() - start < 20
    assert "MLflow at http://***@127.0.0.1:9: " in ours()[0]
    assert "eyespot sync" in ours()[-1] and "secret" not in caplog.text
    assert sync(tmp_path / "run", f"sqlite:///{tmp_path}/m.db") == 2000
    assert json.loads((tmp_path / "run" / "mlflow.json").read_text())["status"] == "FINISHED"


def test_a_server_that_never_answers_does_not_hold_the_process(tmp_path: Path):
    """It accepts and keeps silent: the request hangs until its time-out, the process does not wait for it."""
    code = """
import sys, time
from pathlib import Path
from eyespot.pretrain.tracking.tracker import Tracker
tracker = Tracker(Path(sys.argv[1]), run_key="k", name="n", params={}, tags={}, uri=sys.argv[2])
tracker.log(0, {"loss": 1.0})
sys.stdin.read(1)
start = time.monotonic()
tracker.close("KILLED", wait_seconds=1.0)
assert time.monotonic() - start < 8, "close waited"
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-c", code, str(tmp_path), uri]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        silent.settimeout(60.0)
        connection, _ = silent.accept()
        start = time.monotonic()
        _, errors = process.communicate("x", timeout=60)
        connection.close()
    assert process.returncode == 0 and time.monotonic() - start < 20
    assert errors.strip().endswith(f"send the rest with: eyespot sync {tmp_path}")


def test_the_end_waits_for_a_file_that_is_only_slow(tmp_path: Path, caplog, monkeypatch):
    """A local mlflow.db is never away: what is on its way is waited for, and the log says so."""
    monkeypatch.setattr("eyespot.pretrain.tracking.follower.QUIET_SECONDS", 0.2)
    place = f"sqlite:///{tmp_path}/m.db"
    open_store(place)
    other = sqlite3.connect(tmp_path / "m.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    tracker = open_tracker(tmp_path / "run", place)
    tracker.log(0, {"loss": 1.0})
    timer = threading.Timer(2.0, other.rollback)
    timer.start()
    assert tracker._followers[0].close(0.5, 60.0), "not sent"
    timer.join()
    other.close()
    assert f"sending the rest to MLflow at {place} (60 s at most)" in caplog.text


def test_the_constructor_does_not_wait_for_mlflow(tmp_path: Path):
    """Importing MLflow takes seconds: it happens in the thread, and not at all where nothing is sent."""
    code = """
import sys
from pathlib import Path
from eyespot.pretrain.tracking.tracker import Tracker
tracker = Tracker(Path(sys.argv[1]), run_key="k", name="n", params={}, tags={}, uri="none")
tracker.log(0, {"loss": 1.0})
tracker.close("FINISHED")
assert not {"mlflow", "torch"} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_another_run_in_the_same_folder_starts_its_own_record(tmp_path: Path):
    open_tracker(tmp_path).close("FAILED")
    Tracker(tmp_path, run_key="other", name="n", params={"lr": 2}, tags={}, uri="none").close("FINISHED")
    record = json.loads((tmp_path / "mlflow.json").read_text())
    assert (record["run_key"], record["params"], record["tags"]) == ("other", {"lr": "2"}, {})


def test_events_reach_mlflow_while_the_run_goes_on(tmp_path: Path):
    """Those from before the mirror connects and those from after; the folder's record keeps the newest 20."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = open_tracker(tmp_path / "run", uri)
    tracker.event("rank 1 is slow")
    tracker.log(1, {"loss": 1.0})
    (follower,), until = tracker._followers, time.monotonic() + 60
    while "event.0001" not in follower.mirror.writer.tags:
        assert time.monotonic() < until
        time.sleep(0.05)
    for number in range(2, 24):
        tracker.event(f"event {number}")
    tracker.close("FINISHED")
    client = MlflowClient(uri)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert found.data.tags["event.0001"].endswith("rank 1 is slow")
    assert found.data.tags["event.0023"].endswith("event 23")
    kept = json.loads((tmp_path / "run" / "mlflow.json").read_text())["tags"]
    assert sorted(name for name in kept if name.startswith("event.")) == [f"event.{n:04d}" for n in range(4, 24)]
