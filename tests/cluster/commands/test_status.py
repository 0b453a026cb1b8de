"""eyespot status at the terminal: quick, one line for what is wrong, alive where there is a terminal."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eyespot.cluster.cli import main
from eyespot.cluster.commands.status import _with_seconds

EYESPOT = str(Path(sys.executable).with_name("eyespot"))


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    record = json.dumps({"recipe": "mae_tiny", "run": {"steps": 9}})
    (tmp_path / "runs" / "first" / "run.json").write_text(record)
    return tmp_path / "runs" / "first"


def test_watching_does_not_import_torch(run):
    """It would take seconds: all three commands, and what they imported."""
    words = (["status"], ["logs", "runs/first"], ["cancel", "runs/first"])
    script = (
        f"from eyespot.cluster.cli import main; [main(words) for words in {words}]; import sys; print(*sys.modules)"
    )
    process = [sys.executable, "-c", script]
    done = subprocess.run(process, cwd=run.parents[1], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "eyespot.cluster.commands.cancel" in imported
    assert not imported & {"torch", "mlflow"}


def test_without_words_the_folder_runs(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parents[1])
    assert main(["status"]) == 0
    assert "runs/first  mae_tiny" in capsys.readouterr().out
    monkeypatch.chdir(run)
    assert main(["status"]) == 2
    assert capsys.readouterr().err == "eyespot: runs: no such folder; name a run folder, or a folder of runs\n"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], []),
        (["--watch"], ["--watch", "5"]),
        (["--watch", "2.5", "runs"], ["--watch", "2.5", "runs"]),
        (["--watch", "runs"], ["--watch", "5", "runs"]),
        (["a", "--watch", "--json"], ["a", "--watch", "5", "--json"]),
    ],
)
def test_watch_may_stand_alone(words, given):
    assert _with_seconds(words) == given


def test_wrong_words_are_one_line(run, capsys):
    assert main(["status", str(run), "--watch", "0"]) == 2
    assert capsys.readouterr().err == "eyespot: --watch 0.0: must be above 0 seconds\n"


def test_a_live_display_until_ctrl_c(run):
    """On a terminal of its own; what was shown last stays when it ends."""
    ours, theirs = pty.openpty()
    words = [EYESPOT, "status", str(run), "--watch", "0.2"]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = read_until(ours, "not started")
        (run / "run.json").write_text(json.dumps({"recipe": "mae_small", "run": {"steps": 9}}))
        seen += read_until(ours, "mae_small")
        process.send_signal(signal.SIGINT)
        seen += read_until(ours, None)
        assert process.wait(20) == 0
    os.close(ours)
    _, opened, rest = seen.partition("\x1b[?1049h")  # the terminal's second screen
    live, closed, after = rest.partition("\x1b[?1049l")
    assert opened
    assert closed
    assert "\x1b[2J" not in live.partition("not started")[2]  # redrawn, not wiped: no flicker
    assert "mae_small" in after


def read_until(terminal: int, word: str | None, seconds: float = 30) -> str:
    """What was written to the terminal up to the word, or until nobody has it open."""
    seen, end = "", time.monotonic() + seconds
    while word is None or word not in seen:
        assert time.monotonic() < end, seen
        try:
            seen += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            break
    return seen


def test_json_again_and_again_is_a_line_each(run):
    words = [EYESPOT, "status", str(run), "--json", "--watch", "0.1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert [line["runs"][0]["state"] for line in lines] == ["new", "new"]
