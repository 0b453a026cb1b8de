"""eyespot logs at the terminal."""

import json
from pathlib import Path

import pytest

from eyespot.cluster.cli import main


@pytest.fixture
def run(tmp_path) -> Path:
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": 9}}))
    (run / "logs" / "rank-0.log").write_text("2026-01-02 03:04:05,100 INFO [one]\n2026-01-02 03:04:06,100 ERROR two\n")
    (run / "logs" / "rank-1.log").write_text("2026-01-02 03:04:05,900 INFO between\n")
    return run


def test_one_rank_and_all(run, capsys):
    assert main(["logs", str(run), "--lines", "1"]) == 0
    assert capsys.readouterr().out == "2026-01-02 03:04:06,100 ERROR two\n"
    assert main(["logs", str(run), "--rank", "1"]) == 0
    assert capsys.readouterr().out.endswith("between\n")
    assert main(["logs", str(run), "--all-ranks"]) == 0
    assert [line.split()[0:2] + line.split()[-1:] for line in capsys.readouterr().out.splitlines()] == [
        ["rank", "0", "[one]"],
        ["rank", "1", "between"],
        ["rank", "0", "two"],
    ]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--rank", "7"], "--rank 7: "),
        (["--rank", "1", "--job"], "--rank, --all-ranks and --job: name only one of them"),
        (["--lines", "-1"], "--lines -1: must be 0 or more"),
    ],
)
def test_wrong_words_are_one_line(run, words, answer, capsys):
    assert main(["logs", str(run), *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert answer in lines[0]


def test_a_folder_of_runs_is_not_a_run(run, capsys):
    assert main(["logs", str(run.parent)]) == 2
    assert f"holds 1 run; name one, for example {run}" in capsys.readouterr().err


def test_a_run_by_hand_has_no_job(run, capsys):
    assert main(["logs", str(run), "--job"]) == 0
    assert "no output yet; " in capsys.readouterr().err
