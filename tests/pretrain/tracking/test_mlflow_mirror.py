import itertools
import json
import math
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow_server import Server, clean_env, wait_until

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.tracking.mirror import Mirror
from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.mlflow_mirror import MlflowWriter, tracking_uri
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord
from eyespot.pretrain.tracking.tracker import Tracker

pytestmark = pytest.mark.slow

WRITER = """
import sys, time
from pathlib import Path
from eyespot.pretrain.tracking.tracker import Tracker
run_dir, uri, first, num_steps, pause = Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:6])
tracker = Tracker(run_dir, run_key="key-" + run_dir.name, name=run_dir.name, params={"lr": 0.1}, tags={}, uri=uri)
for step in range(int(first), int(first + num_steps)):
    tracker.log(step, {"loss": 1 / (step + 1), "samples_seen": step * 8})
    time.sleep(pause)
tracker.close("FINISHED", wait_seconds=90.0)
"""

# Forked, so that MLflow is imported once and all reach the file together.
EIGHT_WRITERS = """
import os, sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from eyespot.pretrain.tracking.tracker import Tracker
children = []
for run_dir in map(Path, sys.argv[2:]):
    if (pid := os.fork()) == 0:
        tracker = Tracker(run_dir, run_key="key-" + run_dir.name, name="n", params={"a": 1}, tags={}, uri=sys.argv[1])
        for step in range(40):
            tracker.log(step, {"loss": 1 / (step + 1)})
        tracker.close("FINISHED", wait_seconds=90.0)
        os._exit(0)
    children.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def stored(database: Path) -> list[tuple]:
    """Every metric row in the store, as (key, step, time stamp, value)."""
    with sqlite3.connect(database) as connection:
        return connection.execute("SELECT key, step, timestamp, value, run_uuid FROM metrics").fetchall()


def rows_of(database: Path, run_id: str) -> Counter:
    return Counter(row[:4] for row in stored(database) if row[4] == run_id)


def expected_rows(run_dir: Path) -> Counter:
    """What the store must hold, straight from the file: each number of each line once."""
    rows: Counter = Counter()
    for text in (run_dir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        stamp = round(line["time"] * 1000)
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        rows.update((grouped(key), line["step"], stamp, numbers[key]) for key in numbers.keys() - {"step", "time"})
    return rows


def runs_of(uri: str, run_key: str):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f"tags.`eyespot.run_key` = '{run_key}'")


def write_run(run_dir: Path, num_steps: int, status: str = "FINISHED") -> Path:
    """A run that was logged offline."""
    tracker = Tracker(run_dir, run_key=f"key-{run_dir.name}", name=run_dir.name, params={}, tags={}, uri="none")
    for step in range(num_steps):
        tracker.log(step, {"loss": 1 / (step + 3), "digest": "abc"})
    tracker.close(status)
    return run_dir


def test_server_killed_while_logging(server: Server, tmp_path: Path):
    run_dir = tmp_path / "killed"
    tracker = Tracker(
        run_dir,
        run_key="key-killed",
        name="a run",
        params={"optim": {"lr": 0.1, "betas": (0.9, 0.95)}},
        tags={"git.commit": "abc"},
        uri=server.uri,
    )
    slowest = 0.0

    def log(steps: range) -> None:
        nonlocal slowest
        for step in steps:
            start = time.monotonic()
            tracker.log(step, {"loss": 1 / (step + 1), "grad norm %": float(step), "samples_seen": 8 * step})
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.002)

    def num_rows() -> int:
        return len(stored(server.folder / "server.db"))

    log(range(100))
    wait_until(lambda: num_rows() > 0, 60.0)
    server.kill()
    before = num_rows()
    log(range(100, 1100))
    (run_dir / "pictures").mkdir()
    (run_dir / "pictures" / "step-7.png").write_bytes(b"not really a picture")
    tracker.picture(run_dir / "pictures" / "step-7.png")
    assert num_rows() == before
    server.start()
    log(range(1100, 1200))
    tracker.close("FINISHED", wait_seconds=60.0)
    assert slowest < 5.0  # a request that hangs takes 30

    (run,) = runs_of(server.uri, "key-killed")
    rows = rows_of(server.folder / "server.db", run.info.run_id)
    expected = Counter({(key.replace("%", "_"), *rest): n for (key, *rest), n in expected_rows(run_dir).items()})
    assert rows == expected and len(rows) == 3 * 1200
    assert run.info.status == "FINISHED" and run.info.run_name == "a run"
    assert run.data.params == {"optim.lr": "0.1", "optim.betas": "(0.9, 0.95)"}
    assert run.data.tags["git.commit"] == "abc"
    from mlflow import MlflowClient

    (picture,) = MlflowClient(server.uri).list_artifacts(run.info.run_id, "pictures")
    assert (picture.path, picture.file_size) == ("pictures/step-7.png", 20)


def test_points_sent_twice_are_stored_once(server: Server, tmp_path: Path):
    """A kill between the server's two writes: the points are there, the tag is old, NaN and infinities among them."""
    run_dir = write_run(tmp_path / "twice", 700)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 700, "time": 1764000000.5, "loss": "NaN", "up": "Infinity", "down": "-Infinity"}\n')
    assert sync(run_dir, server.uri) == 701
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    (run,) = runs_of(server.uri, "key-twice")
    size = (run_dir / "metrics.jsonl").stat().st_size
    assert run.data.tags["eyespot.synced_bytes"] == str(size)
    once = rows_of(server.folder / "server.db", run.info.run_id)
    assert sum(once.values()) == 703
    for known in (0, 450):
        lines = (run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        client.set_tag(run.info.run_id, "eyespot.synced_bytes", str(sum(map(len, lines[:known]))))
        assert sync(run_dir, server.uri) == 701 - known
        assert rows_of(server.folder / "server.db", run.info.run_id) == once
    assert sync(run_dir, server.uri) == 0
    (last,) = client.get_metric_history(run.info.run_id, "train/up")
    assert (last.step, last.timestamp) == (700, 1764000000500) and last.value > 1e308
    assert sum(math.isnan(point.value) for point in client.get_metric_history(run.info.run_id, "train/loss")) == 1


def test_logging_process_killed_and_resumed(server: Server, tmp_path: Path):
    """kill -9 of the logging process: the resume goes on in the same MLflow run and doubles nothing."""
    run_dir = tmp_path / "resumed"
    command = [sys.executable, "-c", WRITER, str(run_dir), server.uri]
    first = subprocess.Popen([*command, "0", "100000", "0.001"], env=clean_env())
    wait_until(lambda: bool(runs_of(server.uri, "key-resumed")), 60.0)
    time.sleep(0.7)  # somewhere among the requests
    first.kill()
    first.wait()
    (run,) = runs_of(server.uri, "key-resumed")
    assert run.info.status == "RUNNING"
    num_lines = (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 99')
    # From a checkpoint 20 steps back, 50 steps further than before.
    subprocess.run([*command, str(num_lines - 20), "70", "0"], env=clean_env(), check=True, timeout=120)
    (again,) = runs_of(server.uri, "key-resumed")
    assert again.info.run_id == run.info.run_id and again.info.status == "FINISHED"
    rows = rows_of(server.folder / "server.db", run.info.run_id)
    assert rows == expected_rows(run_dir)
    assert sorted(step for key, step, _, _ in rows if key == "train/loss") == list(range(num_lines + 50))


def test_server_that_lost_its_runs_gets_all_again(server: Server, tmp_path: Path):
    from mlflow import MlflowClient

    run_dir = write_run(tmp_path / "lost", 20)
    mirror = Mirror(run_dir, MlflowWriter(run_dir, server.uri))
    assert mirror.push() == 20 and mirror.push() == 0
    (old,) = runs_of(server.uri, "key-lost")
    MlflowClient(server.uri).delete_run(old.info.run_id)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "time": 1764000000.5, "loss": 0.5}\n')
    with pytest.raises(Exception, match="active"):
        mirror.push()
    assert mirror.push() == 21
    (new,) = runs_of(server.uri, "key-lost")
    assert new.info.run_id != old.info.run_id
    assert rows_of(server.folder / "server.db", new.info.run_id) == expected_rows(run_dir)


def test_more_numbers_on_a_line_than_a_request_holds(server: Server, tmp_path: Path):
    run_dir = write_run(tmp_path / "wide", 1)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1, "time": 1764000000.5, **{f"m{i}": i / 7 for i in range(2500)}}) + "\n")
        file.write("damaged\n")
        file.write('{"step": 2, "time": 1764000001.5, "loss": 0.5}\n{"step": 3, "time": 17640000')
    assert sync(run_dir, server.uri) == 4
    (run,) = runs_of(server.uri, "key-wide")
    assert sum(rows_of(server.folder / "server.db", run.info.run_id).values()) == 2502


def test_eight_processes_on_a_fresh_sqlite_file(tmp_path: Path):
    """The default place, no server: all runs come at the same instant, and the tables are made once."""
    runs = [tmp_path / f"run-{i}" for i in range(8)]
    uri = tracking_uri(runs[0], f"sqlite:///{tmp_path}/mlflow.db")
    assert uri
    command = [sys.executable, "-c", EIGHT_WRITERS, uri, *map(str, runs)]
    subprocess.run(command, env={**clean_env(), "MLFLOW_DISABLE_TELEMETRY": "true"}, check=True, timeout=180)
    experiments = []
    for run_dir in runs:
        (run,) = runs_of(uri, f"key-{run_dir.name}")
        assert run.info.status == "FINISHED"
        assert rows_of(tmp_path / "mlflow.db", run.info.run_id) == expected_rows(run_dir)
        experiments.append(run.info.experiment_id)
    assert len(set(experiments)) == 1
    assert not list(tmp_path.glob("*.tmp")) and not (Path.cwd() / "mlruns").exists()


def test_sqlite_keeps_pictures_beside_itself(tmp_path: Path):
    run_dir = write_run(tmp_path / "pictures-run", 3, "KILLED")
    (run_dir / "pictures").mkdir()
    (run_dir / "pictures" / "a.png").write_bytes(b"a")
    (run_dir / "pictures" / ".b.png").write_bytes(b"being written")
    uri = tracking_uri(run_dir)
    assert sync(run_dir, uri) == 3
    assert [path.name for path in (tmp_path / "mlartifacts").rglob("*.png")] == ["a.png"]
    (run,) = runs_of(uri, "key-pictures-run")
    record = MlflowRecord.read(run_dir)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("KILLED", record.start_ms, record.end_ms)


def test_changed_params_keep_their_first_value(tmp_path: Path):
    for params in ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "new": 5}):
        tracker = Tracker(tmp_path / "r", run_key="k", name="n", params=params, tags={}, uri="none")
        tracker.close("FAILED")
        sync(tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    (run,) = runs_of(f"sqlite:///{tmp_path}/m.db", "k")
    assert run.data.params == {"a": "1", "b.c": "2", "new": "5"}
    assert run.data.tags["changed.b.c"] == "3" and "changed.a" not in run.data.tags
    assert run.info.status == "FAILED"


def test_sync_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"no metrics\.jsonl inside"):
        sync(tmp_path / "nothing")
    run_dir = write_run(tmp_path / "run", 1)
    with pytest.raises(UserError, match="nowhere to send to"):
        sync(run_dir, "none")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Outage, match=r"http://\*\*\*@127\.0\.0\.1:9: .*run the command again") as error:
        sync(run_dir, "http://me:secret@127.0.0.1:9")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    (run_dir / "mlflow.json").write_text("{")
    with pytest.raises(UserError, match=r"mlflow\.json: damaged"):
        sync(run_dir, f"sqlite:///{tmp_path}/m.db")


def test_tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path / "runs" / "one") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri(tmp_path) == "http://host:5000"
    assert tracking_uri(tmp_path, "http://other") == "http://other"
    assert tracking_uri(tmp_path, "none") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    assert tracking_uri(tmp_path) is None


def test_sync_waits_as_long_as_a_busy_server_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """429 with Retry-After, twice; then an error that ends it: when did the requests come?"""
    for name in ("MAX_RETRIES", "BACKOFF_FACTOR", "BACKOFF_JITTER"):  # which sync sets: to be as before afterwards
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "0")
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}")
    asked: list[float] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            self.send_response(429 if len(asked) < 3 else 400)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tracker = Tracker(tmp_path / "r", run_key="k", name="n", params={}, tags={}, uri="none")
    tracker.close("FINISHED")
    with pytest.raises(UserError, match="run the command again"):
        sync(tmp_path / "r", f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    assert len(asked) == 3 and all(later - sooner >= 0.99 for sooner, later in itertools.pairwise(asked))
