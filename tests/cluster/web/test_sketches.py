"""The course of a loss from a few places of a long file."""

import json
import os
from itertools import pairwise

import pytest

from eyespot.cluster.web import sketches
from eyespot.cluster.web.sketches import NUM_POINTS, Sketch, sparkline


def write(folder, steps, loss=lambda step: 1000.0 - step, mode="w", pad=300) -> None:
    with (folder / "metrics.jsonl").open(mode) as file:
        for step in steps:
            file.write(json.dumps({"step": step, "loss": loss(step), "pad": "x" * pad, "online/knn": 0.5}) + "\n")


def test_a_long_file_is_seen_from_its_beginning_to_its_end(tmp_path, monkeypatch):
    write(tmp_path, range(5000))
    read, pread = [], os.pread
    monkeypatch.setattr(sketches.os, "pread", lambda *words: read.append(words[1]) or pread(*words))
    sketch = Sketch(tmp_path)
    sketch.look()
    steps = [step for step, _ in sketch.points]
    assert (
        steps[0] == 0
        and steps[-1] == 4999
        and steps == sorted(set(steps))
        and NUM_POINTS // 2 < len(steps) <= 2 * NUM_POINTS
    )
    assert max(b - a for a, b in pairwise(steps)) < 300
    assert all(loss == 1000.0 - step for step, loss in sketch.points) and sketch.newest["online/knn"] == 0.5
    assert sum(read) < 300_000
    read.clear()
    sketch.look()
    assert not read  # it has not changed
    write(tmp_path, range(5000, 5010), mode="a")
    sketch.look()
    assert len(read) == 1 and sketch.points[-1][0] == 5009


def test_a_short_file_a_new_one_and_none(tmp_path):
    sketch = Sketch(tmp_path)
    sketch.look()
    assert sketch.points == [] and sparkline(sketch.points) == ""
    write(tmp_path, range(3))
    sketch.look()
    assert [step for step, _ in sketch.points] == [0, 1, 2]
    write(tmp_path, range(2), loss=lambda step: 7.0)
    sketch.look()
    assert sketch.points == [(0, 7.0), (1, 7.0)]


@pytest.mark.parametrize("loss", ["NaN", 10**400, None, [1], "<svg>"])
def test_what_is_no_finite_loss_is_left_out(tmp_path, loss):
    write(tmp_path, range(3))
    write(tmp_path, [3], loss=lambda step: loss, mode="a")
    sketch = Sketch(tmp_path)
    sketch.look()
    assert [step for step, _ in sketch.points] == [0, 1, 2]


def test_very_long_lines(tmp_path):
    write(tmp_path, range(40), pad=20_000)
    sketch = Sketch(tmp_path)
    sketch.look()
    assert len(sketch.points) > 20


def test_a_line_is_drawn_within_its_box():
    assert sparkline([(0, 1.0), (10, 3.0), (20, 2.0)]) == "M0.0 26.0L60.0 2.0L120.0 14.0"
    assert sparkline([(0, 5.0), (1, 5.0)]) == "M0.0 14.0L120.0 14.0"
