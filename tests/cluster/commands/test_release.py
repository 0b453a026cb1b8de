"""eyespot release as a person calls it."""

from pathlib import Path

import pytest
from released_runs import write_run

from eyespot.cluster.cli import main
from eyespot.eval.release.layout import digest_of


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["release", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = write_run(tmp_path / "run")
    assert main(["release", str(run_dir), "--license", "apache-2.0", "--name", "night"]) == 0
    out = run_dir / "release"
    assert capsys.readouterr().out == f"{out}\nsha256 {digest_of(out)}\n"
    assert "# night" in (out / "README.md").read_text()
    assert "exists already" in refuse(capsys, str(run_dir), "--license", "apache-2.0")


def test_wrong_words(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    run_dir = str(write_run(tmp_path / "run", judged=False))
    assert "--license" in refuse(capsys, run_dir)
    assert "no SPDX expression" in refuse(capsys, run_dir, "--license", "free")
    assert "no run.json" in refuse(capsys, str(tmp_path), "--license", "mit")
    assert "has no evaluation" in refuse(capsys, run_dir, "--license", "mit")
    assert "goes with --register" in refuse(capsys, run_dir, "--license", "mit", "--alias", "a")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registered = (run_dir, "--license", "mit", "--no-evaluation", "--register", "digits")
    assert "no mlflow.json" in refuse(capsys, *registered) and not (tmp_path / "run" / "release").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    assert main(["release", run_dir, "--license", "mit", "--no-evaluation", "--out", str(tmp_path / "out")]) == 0
