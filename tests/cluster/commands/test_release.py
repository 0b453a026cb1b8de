"""eyespot release as a person calls it."""

from pathlib import Path

import pytest
from fake_hub import FakeHub
from released_runs import content, write_release, write_run

import eyespot
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
    assert "is no student; say --weights ema" in refuse(capsys, run_dir, "--license", "mit", "--student", "ema")
    assert "name the run, and say --student small" in refuse(capsys, f"{run_dir}@small", "--license", "mit")
    assert "goes with --register" in refuse(capsys, run_dir, "--license", "mit", "--alias", "a")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registered = (run_dir, "--license", "mit", "--no-evaluation", "--register", "digits")
    assert "no mlflow.json" in refuse(capsys, *registered) and not (tmp_path / "run" / "release").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    assert main(["release", run_dir, "--license", "mit", "--no-evaluation", "--out", str(tmp_path / "out")]) == 0


def test_pushed_and_pulled(tmp_path: Path, capsys: pytest.CaptureFixture[str], hub: FakeHub, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_dir = write_run(tmp_path / "run")
    push = ["release", str(run_dir), "--license", "mit", "--to", "hf://lab/digits", "--tag", "v1"]
    assert main(push) == 0
    commit = hub.repositories["lab/digits"].tags["v1"]
    said = capsys.readouterr()
    assert said.out.splitlines()[2:] == [f"hf://lab/digits@{commit}", f"{hub.url}/lab/digits/tree/{commit}"]
    assert said.err == "next: eyespot pull hf://lab/digits   # what others do: fetch it, verify it, load it\n"
    assert main(["release", str(run_dir / "release"), "--to", "hf://lab/digits"]) == 0
    assert capsys.readouterr().out.startswith(f"hf://lab/digits@{commit} (was there already)\n")
    assert main(["pull", "hf://lab/digits@v1", str(tmp_path / "pulled")]) == 0
    assert f"\nfrom hf://lab/digits@{commit}\n" in capsys.readouterr().out
    assert content(tmp_path / "pulled") == content(run_dir / "release")
    loaded = eyespot.load("hf://lab/digits")
    assert loaded.subject.origin["hub"] == f"hf://lab/digits@{commit}" and loaded.name == "run, step 12"
    folder = str(run_dir / "release")
    assert "--license: " in refuse(capsys, folder, "--license", "mit", "--to", "hf://lab/digits")
    assert "is a release already; push it with --to" in refuse(capsys, folder)
    assert "--tag: goes with --to" in refuse(capsys, str(run_dir), "--license", "mit", "--tag", "v1")
    assert "write it as hf://ORG/NAME" in refuse(capsys, str(run_dir), "--license", "mit", "--to", "lab/digits")


def test_what_cannot_be_done_afterwards_is_said_before(tmp_path: Path, capsys, hub: FakeHub, monkeypatch):
    run_dir = write_run(tmp_path / "run")
    words = [str(run_dir), "--license", "mit"]
    assert "goes to a branch" in refuse(capsys, *words, "--to", f"hf://lab/digits@{'0' * 40}")
    assert "git allows no" in refuse(capsys, *words, "--to", "hf://lab/digits", "--tag", "a..b")
    assert "exists already" in refuse(capsys, *words, "--transformers", str(tmp_path))
    with monkeypatch.context() as nobody:
        nobody.delenv("HF_TOKEN")
        assert "which account" in refuse(capsys, *words, "--to", "hf://lab/digits")
    assert not (run_dir / "release").exists() and not hub.asked
    hub.fail("POST .*/commit/.*", 503)
    assert main(["release", *words, "--to", "hf://lab/digits", "--tag", "v1"]) == 1
    said, _, how = capsys.readouterr().err.partition(f"; {run_dir}/release is written: go on with eyespot ")
    assert "503" in said and how == f"release {run_dir}/release --to hf://lab/digits --tag v1\n"
    hub.faults.clear()
    assert main(how.split()) == 0


def test_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    released, out = write_release(tmp_path / "night"), tmp_path / "out"
    assert main(["release", str(released), "--transformers", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n" and said.err.count("\n") == 1 and (out / "preprocessor_config.json").is_file()
