"""A planted secret: in the environment, the command line, a path, an error and an address; then every file is read."""

import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eyespot.pretrain.redaction import MaskedFormatter, mask_tracebacks, masked, masked_values
from eyespot.pretrain.tracking.tracker import Tracker

SECRET = "s3cr3t-t0ken/with+signs"
NAMES = (
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "my_api_key",
    "GIT_CREDENTIALS",
    "DB_PWD",
    "GITHUB_PAT",
)
NAMES += ("WANDB_KEY", "storage_account_key", "KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "HTTP_AUTHORIZATION")
PLAIN = (
    "TOKENIZERS_PARALLELISM",
    "PWD",
    "SECRET_FILE",
    "TOKEN_DIR",
    "MAX_TOKENS",
    "KEYBOARD",
    "PASSAGE",
    "TOKEN_URL",
    "PATH_A",
    "PATTERN",
)
PLAIN += ("KEY_FILE", "AWS_REGION", "MONKEY", "KEYS_PER_PAGE", "COMPAT")


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_secret(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, SECRET)
    assert masked(f"curl -H {SECRET} {SECRET}") == "curl -H *** ***"


@pytest.mark.parametrize("name", PLAIN)
def test_names_that_do_not(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "/some/folder")
    assert masked("/some/folder/runs") == "/some/folder/runs"


def test_short_values_and_files_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("A_TOKEN", "false")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    assert masked(f"false {tmp_path}") == f"false {tmp_path}"


def test_the_longest_value_first_and_no_value_kept_in_mind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdefghi")
    assert masked("abcdefghi abcdef") == "*** ***"
    monkeypatch.setenv("A_TOKEN", "another")
    assert masked("abcdef another") == "abcdef ***"


def test_however_it_is_written(monkeypatch: pytest.MonkeyPatch):
    value = 'pä"ss\\w ord/\n-----BEGIN-----'
    monkeypatch.setenv("A_PASSWORD", value)
    from urllib.parse import quote, quote_plus

    for text in (value, repr(value), repr({"a": value}), json.dumps([value]), quote(value), quote(value, safe="")):
        assert "***" in masked(text) and "ord" not in masked(text)
    assert "BEGIN" not in masked("the last line: -----BEGIN-----")
    assert masked(quote_plus("unrelated words")) == "unrelated+words"


def test_addresses():
    assert masked("GET http://a:b@host/x and http://c@d") == "GET http://***@host/x and http://***@d"
    assert masked("mysql+pymysql://u:p@ss@host:3306/db?a=me@home") == "mysql+pymysql://***@host:3306/db?a=me@home"
    for plain in ("http://host/a@b", "me@home", '["http://host", "me@home"]', "hf-hub:a/b@main"):
        assert masked(plain) == plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a?token=abc&b=1", "https://host/a?token=***&b=1"),
        ("https://host/a?b=1&access_token=abc#x", "https://host/a?b=1&access_token=***#x"),
        ("s3://b/k?X-Amz-Signature=ab12&X-Amz-Date=9", "s3://b/k?X-Amz-Signature=***&X-Amz-Date=9"),
        ("https://acc.blob/c?sv=1&sig=ab%2F12", "https://acc.blob/c?sv=1&sig=***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "{'authorization': 'Basic ***'}"),
        ("curl -H 'X-Api-Key: abc123'", "curl -H 'X-Api-Key: ***'"),
        ("with ghp_0123456789abcdefghijABCDEFGHIJ here", "with *** here"),
        ("github_pat_11ABCDEFG0123456789_abcdefghij", "***"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
    ],
)
def test_what_the_environment_lacks(text: str, shown: str):
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "mae_tiny hf_hub:a/b sk-learn",
        "a?b=1&keyword=x",
        "optim.lr=1",
        "the authorization of",
        "tokens: 196",
        "data?split=a",
    ],
)
def test_ordinary_text_stays(text: str):
    assert masked(text) == text


def test_values_keep_their_shape(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_TOKEN", SECRET)
    values = {"a": [1, 2.5, None, True, f"x{SECRET}"], "b": {"c": SECRET}, "d": (SECRET,)}
    assert masked_values(values) == {"a": [1, 2.5, None, True, "x***"], "b": {"c": "***"}, "d": ("***",)}


def test_logged_tracebacks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_TOKEN", SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "stopped: %s", (SECRET,), sys.exc_info())
    text = MaskedFormatter("%(message)s").format(record)
    assert SECRET not in text and text.startswith("stopped: ***\nTraceback") and text.endswith("ValueError: ***")


def test_uncaught_errors_in_any_thread(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("A_TOKEN", SECRET)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    mask_tracebacks()

    def fail() -> None:
        raise ValueError(SECRET)

    thread = threading.Thread(target=fail, name="a thread")
    thread.start()
    thread.join()
    sys.excepthook(KeyError, KeyError(SECRET), None)
    said = capsys.readouterr().err
    assert SECRET not in said and "thread a thread" in said and "ValueError: ***" in said and "KeyError: '***'" in said


def test_mlflow_json_and_events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("A_TOKEN", SECRET)
    for _ in range(2):  # a resume finds the same masked values: nothing has changed
        params = {"data": {"shards": f"/data/{SECRET}"}, "long": "x" * 5990 + SECRET}
        tracker = Tracker(tmp_path, run_key="k", name="n", params=params, tags={"data": SECRET}, uri="none")
        tracker.event(f"requeued by {SECRET}")
        tracker.close("FINISHED")
    text = (tmp_path / "mlflow.json").read_text()
    assert SECRET not in text and SECRET[:10] not in text and "changed." not in text and "requeued by ***" in text


# One process for all commands, because each start of torch takes seconds.
COMMANDS = """
import json, sys
from eyespot.cluster.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["eyespot", *words]
    print("exit code", main(words))
"""

RECIPE = """
import os
from eyespot.pretrain.recipes.mae import mae_tiny

def tiny():
    return mae_tiny()

def broken():
    raise RuntimeError("cannot log in with " + os.environ["HF_TOKEN"])
"""


@pytest.mark.slow
def test_nothing_secret_reaches_the_run_folder_or_mlflow(digits: Path, tmp_path: Path):
    """The run itself reads its data through a folder whose name is a secret, and goes on there when resumed."""
    shards = tmp_path / SECRET / "digits"
    shards.parent.mkdir(parents=True)
    shards.symlink_to(digits)
    (tmp_path / "secretive.py").write_text(RECIPE)
    run_dir = tmp_path / "run"
    words = ["pretrain", "secretive:tiny", "--run-dir", str(run_dir), "--data.shards", str(shards / "train")]
    words += ["--encoder.name", "test_vit", "--encoder.patch-size", "4", "--data.batch-size", "32", "--device", "cpu"]
    words += ["--steps", "2", "--log-every", "1", "--picture-every", "0", "--monitor-every", "0", "--resume", "auto"]
    words += ["--experiment", f"of {SECRET}"]
    commands = [
        [*words, "--stop-after", "1"],
        words,
        ["eval", "knn", str(run_dir), str(shards), "--device", "cpu", "--trust-recipe", "secretive"],
        ["report", str(run_dir)],
        [*words[:2], "--data.shards", f"/nowhere/{SECRET}", "--run-dir", str(tmp_path / "other")],
        ["pretrain", "secretive:broken"],
    ]
    uri = f"sqlite:///{tmp_path}/mlflow.db?note=sqlite://me:hunter2hunter2@host"
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_TOKEN": SECRET, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(tmp_path)},
        timeout=300,
        check=False,
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit code")]
    assert codes == ["exit code 0"] * 4 + ["exit code 2"], done.stderr
    assert done.returncode == 1 and "RuntimeError: cannot log in with ***" in done.stderr
    assert "/nowhere/***" in done.stderr
    assert SECRET not in done.stdout + done.stderr and "hunter2" not in done.stdout + done.stderr

    assert json.loads((run_dir / "run.json").read_text())["run"]["data"]["shards"] == f"{tmp_path}/***/digits/train"
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert {"run.json", "mlflow.json", "rank-0.log", "report.html", "meta.json"} <= {path.name for path in files}
    for path in [*files, tmp_path / "mlflow.db"]:
        content = path.read_bytes()
        assert SECRET.encode() not in content and b"hunter2" not in content, path
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (value,) = database.execute("SELECT value FROM params WHERE key = 'data.shards'").fetchone()
    assert value == f"{tmp_path}/***/digits/train"
