"""The numbers for charts."""

import json

import pytest
from watched_runs import add_lines, begin_run

from eyespot.cluster.web.answers import Query
from eyespot.cluster.web.curves import curves
from eyespot.cluster.web.growing_metrics import GrowingMetrics


@pytest.fixture
def metrics(tmp_path):
    return GrowingMetrics(begin_run(tmp_path / "run", lines=100))


def ask(metrics, *names, **words):
    pairs = [("name", name) for name in names] + [(name, str(value)) for name, value in words.items()]
    return json.loads(curves(metrics, Query(pairs)).body)


def test_what_is_left_out_is_counted_in_plain_words(metrics):
    with (metrics.run_dir / "metrics.jsonl").open("a") as file:
        file.write("x\n")
    assert ask(metrics)["notes"] == ["left out of metrics.jsonl, damaged or too long: 1 line"]
    with (metrics.run_dir / "metrics.jsonl").open("a") as file:
        file.write("x\n")
    assert ask(metrics)["notes"][0].endswith(": 2 lines")


def test_values_by_steps_samples_and_time(metrics):
    told = ask(metrics, "loss", "nothing")
    assert list(told["metrics"]) == ["loss"] and told["read"] == 1 and told["last"] == 99
    assert {"loss", "online/knn", "time_share/data"} <= set(told["names"])
    loss = told["metrics"]["loss"]
    assert loss["x"] == loss["step"] == list(range(100)) and loss["low"] is None
    assert loss["mean"][:3] == [5, 2.5, 1.666667]
    assert ask(metrics, "loss", x="samples")["metrics"]["loss"]["x"][:2] == [32, 64]
    assert ask(metrics, "loss", x="time")["metrics"]["loss"]["x"][:2] == [0, 1]
    part = ask(metrics, "loss", x="samples", **{"from": 320, "to": 640})["metrics"]["loss"]
    assert part["x"][0] in (288, 256) and part["x"][-1] in (672, 704)


def test_only_what_is_new_comes(metrics):
    told = ask(metrics, "loss")
    again = {"epoch": told["epoch"], "after": told["last"], "known": len(told["names"])}
    assert ask(metrics, "loss", **again)["metrics"]["loss"]["step"] == []
    add_lines(metrics.run_dir, range(100, 103))
    new = ask(metrics, "loss", **again)
    assert new["metrics"]["loss"]["step"] == [100, 101, 102] and new["metrics"]["loss"]["replaces"] == 100
    assert "names" not in new
    add_lines(metrics.run_dir, range(50, 52))  # it went back
    back = ask(metrics, "loss", **again)
    assert back["metrics"]["loss"]["replaces"] is None and back["metrics"]["loss"]["step"] == list(range(52))


def test_no_more_points_than_columns(metrics):
    add_lines(metrics.run_dir, range(100, 5000))
    body = curves(metrics, Query([("name", "loss"), ("bins", "100")])).body
    loss = json.loads(body)["metrics"]["loss"]
    assert len(loss["mean"]) <= 101 and len(body) < 8000 and loss["low"][0] < loss["mean"][0] < loss["high"][0]


def test_values_that_are_not_finite_are_counted(metrics):
    add_lines(metrics.run_dir, range(100, 102), loss="NaN")
    loss = ask(metrics, "loss")["metrics"]["loss"]
    assert loss["broken"] == 2 and loss["newest"] == "nan" and len(loss["mean"]) == 100


@pytest.mark.parametrize(
    "words", [{"bins": "1e9"}, {"bins": "x"}, {"from": 5, "to": 1}, {"after": 1e30, "epoch": 1}, {"x": "?"}]
)
def test_strange_questions_have_answers(metrics, words):
    assert len(ask(metrics, "loss", **words)["metrics"]["loss"]["mean"]) <= 100


def test_a_file_that_is_gone_is_said(metrics):
    ask(metrics, "loss")
    (metrics.run_dir / "metrics.jsonl").unlink()
    assert "not there any more" in ask(metrics, "loss")["notes"][0]
