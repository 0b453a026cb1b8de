"""What eyespot eval prints, and what it hands to MLflow."""

import json
from pathlib import Path

import pytest
from released_runs import write_run
from result_files import some_result

from eyespot.cluster.eval_commands.eval_table import MOST_COLUMNS, print_table, track
from eyespot.eval.results.result import Score
from eyespot.eval.results.tables import class_metric


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")


def test_results_stand_side_by_side(capsys):
    twin = some_result(role="random", name="random weights", accuracy=0.5, interval=(0.24, 0.76), alarms=["all alike"])
    print_table([some_result(), twin])
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].strip() == "knn on digits: 10 classes"
    (first,) = (line for line in lines if "mae_tiny, step 12" in line)
    assert "90.00%" in first and "60.00% to 98.00%" in first and "cls, k 20" in first
    assert lines.index(first) < next(number for number, line in enumerate(lines) if "50.00%" in line)
    assert lines[-2:] == ["Alarm, random weights: all alike", "90 training images, 10 test images (train and test)."]


def test_many_numbers_stand_below_each_other(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    scores = {f"own head: moment recall@{number}": Score(value=number / 8) for number in range(MOST_COLUMNS)}
    print_table([some_result(scores=scores), some_result(role="random", name="random weights", scores=scores)])
    lines = [line.strip("│").split("│") for line in capsys.readouterr().out.splitlines() if "own head" in line]
    assert [[cell.strip() for cell in cells] for cells in lines] == [
        [name, *[f"{score.value:.3f}"] * 2] for name, score in scores.items()
    ]


def test_so_do_numbers_with_intervals_of_their_own(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    scores = {"perplexity": Score(value=8.25, interval=(8.0, 8.5)), "gain, nats a token": Score(value=0.5)}
    print_table([some_result(protocol="captions", scores=scores)])
    lines = [line.strip("│").split("│") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in cells] for cells in lines]
    assert ["perplexity", "8.250 (8.000 to 8.500)"] in rows and ["gain, nats a token", "0.500"] in rows


def test_a_protocol_that_learns_from_nothing_names_no_training_images(capsys):
    print_table([some_result(protocol="clustering", num_train=0, num_classes=0, num_test=1234)])
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].rstrip() == "clustering on digits" and "training images" not in said
    assert lines[-1] == "1,234 test images (train and test)."


def test_classes_stand_below_and_their_names_command_no_terminal(capsys):
    name = "[bold]\x1b]52;c;b3du\x07\x1b[2J"
    metrics = {class_metric(0, 12, name): 0.25, class_metric(1, 3, "owl"): 1.0}
    print_table([some_result(protocol="zero-shot", metrics=metrics), some_result(role="random", name="random weights")])
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if "25.0%" in line or "owl" in line]
    assert len(rows) == 2 and r"[bold]\x1b]52;c;b3d" in rows[0] and "12" in rows[0]
    assert "\x1b]52" not in said and "\x07" not in said and "Accuracy by class" in said


def test_who_is_no_run_is_not_tracked(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    track("test_vit", [some_result()])
    untracked = write_run(tmp_path / "run", judged=False)
    record = json.loads((untracked / "run.json").read_text())
    record["run"]["track"] = False
    (untracked / "run.json").write_text(json.dumps(record))
    track(str(untracked), [some_result()])
    assert not (tmp_path / "mlflow.db").exists()


def test_results_that_cannot_be_tracked_are_a_warning(tmp_path: Path, capsys, monkeypatch):
    """The numbers are there and printed: MLflow must not turn them into a failure."""
    run_dir = write_run(tmp_path / "run", judged=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track(str(run_dir), [some_result()])
    said = capsys.readouterr().err
    assert (
        said == f"eyespot: warning: run folder {run_dir}: no mlflow.json inside; name a folder that a run has written\n"
    )
