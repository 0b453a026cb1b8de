"""An escape sequence in any field of a stranger's file reaches no terminal: real commands on a real terminal."""

import io
import itertools
import json
import os
import pty
import re
import shutil
import sys
import tarfile
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from released_runs import write_run

from eyespot.cluster.cli import main
from eyespot.cluster.status.records import Records
from eyespot.eval.release.layout import write_sums
from eyespot.eval.release.write import release
from eyespot.pretrain.tracking.metrics_file import encode

HOSTILE = "\x1b]52;c;b3du\x07\x1b[2J\x9b31m\u202e"
"""Writes into the clipboard, clears the screen, colours (in one character), turns the text around."""
SHOWN = re.compile(r"(\\x1b|\\u001b)\]52")
"""What of it may be seen."""
RAW = re.compile("\x1b\\]52|\x07|\x1b\\[2J|\x9b|\u202e")
"""What may not; colours and movements of our own are none of these."""


def on_terminal(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code of a command, and what a terminal got of it."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    got: list[bytes] = []

    def listen() -> None:
        try:
            while piece := os.read(master, 1 << 16):
                got.append(piece)
        except OSError:  # the other end is closed
            return

    thread = threading.Thread(target=listen)
    thread.start()
    with monkeypatch.context() as here:
        streams = [os.fdopen(os.dup(slave), "w", encoding="utf-8", buffering=1) for _ in range(2)]
        os.close(slave)
        here.setattr(sys, "stdout", streams[0])
        here.setattr(sys, "stderr", streams[1])
        here.setenv("TERM", "xterm")
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        for stream in streams:
            stream.close()
    thread.join()
    os.close(master)
    return code, b"".join(got).decode("utf-8", "replace")


def places(held: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value that is no object or list; of a list, to its first two."""
    inner = held.items() if isinstance(held, dict) else enumerate(held[:2]) if isinstance(held, list) else None
    if not inner:
        yield path
        return
    for key, value in inner:
        yield from places(value, (*path, key))


def spoilt(held: Any) -> Iterator[tuple[str, Any]]:
    """For every place: its name and a copy in which an escape sequence is its value, or the name of a new field."""
    for path in places(held):
        if not path:
            continue
        copy = json.loads(json.dumps(held))
        holder = copy
        for key in path[:-1]:
            holder = holder[key]
        old = holder[path[-1]]
        holder[path[-1]] = HOSTILE + old if isinstance(old, str) else HOSTILE
        yield ".".join(map(str, path)), copy
    objects = {path[:-1] for path in places(held) if path and isinstance(path[-1], str)}
    for path in objects:
        copy = json.loads(json.dumps(held))
        holder = copy
        for key in path:
            holder = holder[key]
        holder[HOSTILE] = next(iter(holder.values()))
        yield ".".join([*map(str, path), "(a name)"]), copy


class Told:
    """Counts in how many places a field was shown, and collects those where it came raw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
        self._monkeypatch, self.every, self.shown, self.raw = monkeypatch, every, list[str](), list[str]()

    def try_all(self, file: Path, commands: list[list[str]], write: Callable[[Any], None] | None = None) -> None:
        """Spoils the places of a file of JSON in turn, and lets the commands meet it."""
        before = file.read_bytes()
        held = json.loads(before)
        for place, changed in itertools.islice(spoilt(held), 0, None, self.every):
            file.write_text(json.dumps(changed))
            if write is not None:
                write(changed)
            for words in commands:
                self.try_one(f"{file.name}: {place}", words)
        file.write_bytes(before)

    def try_one(self, what: str, words: list[str]) -> None:
        """What a command says of it."""
        code, said = on_terminal(words, self._monkeypatch)
        assert code in (0, 1, 2), (what, words, said)
        assert "Traceback" not in said, (what, words, said)
        if SHOWN.search(said):
            self.shown.append(f"{what}, {' '.join(words[:2])}")
        if RAW.search(said):
            self.raw.append(f"{what}, {' '.join(words[:2])}: {said!r}")


@pytest.fixture(params=[5, pytest.param(1, marks=pytest.mark.thorough)], ids="one place in {}".format)
def told(request, monkeypatch, tmp_path) -> Told:
    monkeypatch.chdir(tmp_path)
    for name, value in {"MLFLOW_TRACKING_URI": "none", "COLUMNS": "300", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    return Told(monkeypatch, request.param)


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(path, format="PNG")


def test_sources_and_tars(told, tmp_path):
    """Names of files, classes and members, on the way into shards and out of them."""
    for number in range(4):
        picture(tmp_path / "photos" / f"{HOSTILE}{number % 2}" / f"{HOSTILE}{number}.png", number)
    (tmp_path / "photos" / f"{HOSTILE}0" / f"{HOSTILE}.png").write_bytes(b"no image")
    (tmp_path / "photos" / f"{HOSTILE}0" / f"x.{HOSTILE}").write_bytes(b"no image")
    (tmp_path / "tars" / HOSTILE).mkdir(parents=True)
    for name in ("tars", f"tars/{HOSTILE}"):
        with tarfile.open(tmp_path / name / f"{HOSTILE}.tar", "w") as tar:
            for path in sorted((tmp_path / "photos").rglob("*.png")):
                for suffix in (".png", ".cls", f".{HOSTILE}"):
                    content = path.read_bytes() if suffix == ".png" else HOSTILE.encode()
                    member = tarfile.TarInfo(f"{path.stem}{len(path.parent.name)}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    for words in (
        ["pack", "photos", "packed", "--holdout", "0.5", "--workers", "1"],
        ["info", "packed"],
        ["verify", "packed"],
        ["pack", f"photos/{HOSTILE}0", f"{HOSTILE}out", "--workers", "1"],
        ["pack", f"tars/{HOSTILE}.tar", "again", "--workers", "1"],
        ["index", "tars", "--workers", "1"],
        ["index", f"tars/{HOSTILE}", "--workers", "1"],
        ["info", "tars"],
        ["verify", "tars"],
        ["info", HOSTILE],
        ["view", HOSTILE],
    ):
        told.try_one("a name", ["shards", *words])
    assert not told.raw, "\n".join(told.raw)
    assert len(told.shown) >= 8, told.shown


def test_manifests(told, tmp_path):
    for number in range(4):
        picture(tmp_path / "photos" / f"class{number % 2}" / f"{number}.png", number)
    (tmp_path / "photos" / "class0" / "broken.png").write_bytes(b"")
    assert on_terminal(["shards", "pack", "photos", "packed", "--workers", "1"], pytest.MonkeyPatch())[0] == 0
    told.try_all(tmp_path / "packed" / "manifest.json", [["shards", "info", "packed"], ["shards", "verify", "packed"]])
    assert not told.raw, "\n".join(told.raw)
    assert len(told.shown) >= (3 if told.every == 1 else 1), told.shown


def test_run_folders(told, tmp_path):
    """run.json, results, what a cluster noted, metrics, logs."""
    run = write_run(tmp_path / "run")
    lines = [{"step": step, "time": 1.7e9 + step, "loss": 0.5, HOSTILE: 1.0, "digest": HOSTILE} for step in (1, 2, 12)]
    (run / "metrics.jsonl").write_bytes(b"".join(map(encode, lines)))
    (run / "logs").mkdir()
    (run / "logs" / "rank-0.log").write_text(f"2026-01-01 00:00:00,000 INFO {HOSTILE}\n")
    (run / "mlflow.json").write_text(json.dumps({"run_id": "0" * 32, "tags": {"a": "b"}, "uri": "sqlite:///x"}))
    records = Records(run)
    records.folder.mkdir()
    jobs = {"job": "1", "kind": "pretrain", "submitted": 1.7e9, "log": "x.err", "nodes": 1, "processes": 1}
    attempt = {"number": 1, "job": "1", "requeues": 0, "nodes": ["a"], "start": 1.7e9, "end": 1.8e9}
    attempt |= {"outcome": "failed", "why": "it failed", "blamed": ["a"]}
    beat = {"node": "a", "job": "1", "requeues": 0, "time": 1.7e9, "state": "trains"}
    (records.folder / "nodes").mkdir()
    (records.folder / "jobs.jsonl").write_text(json.dumps(jobs))
    (records.folder / "attempts.jsonl").write_text(json.dumps(attempt))
    (records.folder / "nodes" / "a.json").write_text(json.dumps(beat))
    status, report = ["status", "run"], ["report", "run", "--no-look", "--out", "page.html"]
    told.try_one("metrics.jsonl", status)
    told.try_one("metrics.jsonl", report)
    told.try_one("rank-0.log", ["logs", "run"])
    assert told.shown, "the log is shown"
    told.try_all(run / "run.json", [status, report])
    told.try_all(run / "eval" / "knn_digits.json", [["eval", "compare", "run"], report])
    for name in ("jobs.jsonl", "attempts.jsonl", "nodes/a.json"):
        told.try_all(records.folder / name, [status, ["cancel", "run"]])
    told.try_all(run / "mlflow.json", [status, ["sync", "run"]])
    told.try_all(run / "checkpoints" / "step-00000012" / "meta.json", [status, ["eval", "knn", "run", "nowhere"]])
    assert not told.raw, "\n".join(told.raw)
    assert len(told.shown) >= (12 if told.every == 1 else 1), told.shown


def test_releases(told, tmp_path):
    run = write_run(tmp_path / "run")
    place = release(run, license="mit", out=tmp_path / "release", allow_dirty=True)
    said = json.loads((place / "provenance.json").read_text())
    said |= {"run": {}, "versions": {}, "hardware": {}}  # of which nothing is said
    (place / "provenance.json").write_text(json.dumps(said))
    pull = ["pull", str(place), "pulled"]

    def settle(_: Any) -> None:
        write_sums(place)
        shutil.rmtree("pulled", ignore_errors=True)

    for name in ("provenance.json", "config.json"):
        told.try_all(place / name, [pull], settle)
    settle(None)
    (place / "README.md").write_text(HOSTILE)
    told.try_one("README.md", pull)
    shutil.rmtree("pulled", ignore_errors=True)
    (place / "SHA256SUMS").write_text(HOSTILE)
    told.try_one("SHA256SUMS", pull)
    assert not told.raw, "\n".join(told.raw)
    assert len(told.shown) >= (12 if told.every == 1 else 1), told.shown


def test_the_terminal_of_these_tests_would_see_it(monkeypatch):
    monkeypatch.setattr("eyespot.cluster.cli.filter_output", lambda: None)
    monkeypatch.setattr("eyespot.cluster.cli.one_line", lambda text: text)
    _, said = on_terminal(["recipes", HOSTILE], monkeypatch)
    assert RAW.search(said)
