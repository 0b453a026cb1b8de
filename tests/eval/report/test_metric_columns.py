"""Columns hold to the bit what the lines of metrics.jsonl say, and are drawn as those would be."""

import json
import math
import random

import numpy as np
import pytest

from eyespot.eval.report.charts import thin
from eyespot.eval.report.metric_columns import MetricColumns, read_columns
from eyespot.pretrain.tracking.metrics_file import NAME, encode, read_metrics


def some_lines(count, seed=0):
    """Numbers on every line, on some, from some line on, until some line; text; what is not finite."""
    draw = random.Random(seed)
    for step in range(count):
        line = {"step": 3 * step, "time": 1e9 + step, "loss": draw.choice([draw.random(), math.nan, math.inf, 7])}
        line |= {"digest": "ab12"} if step % 2 else {}
        line |= {"late": draw.random()} if step > count // 2 else {"early": draw.random()}
        line |= {"words": "text"} | ({"words": 1} if step > 300 else {})
        line |= {"rare": step} if draw.random() < 0.1 else {}
        line |= {"turns": "text" if step == 5 else 0.5}
        yield line


def slow(lines, name):
    """The obvious way."""
    as_number = [(line["step"], line[name]) for line in lines if name in line]
    if name == "words":  # text is no number: it counts from the first number on
        as_number = as_number[301:]
    return [(step, math.nan if isinstance(value, str) else float(value)) for step, value in as_number]


@pytest.mark.parametrize("count", [0, 1, 2, 777, 1500])
def test_as_the_lines_say(tmp_path, count):
    lines = list(some_lines(count))
    (tmp_path / NAME).write_bytes(b"".join(map(encode, lines)))
    columns = read_columns(tmp_path)
    assert len(columns) == count and columns.last_step == (lines[-1]["step"] if lines else 0)
    for name in ("time", "loss", "late", "early", "rare", "turns", "words", "absent"):
        steps, values = columns.points(name)
        wanted = slow(lines, name)
        assert steps.tolist() == [step for step, _ in wanted]
        np.testing.assert_array_equal(values, np.array([value for _, value in wanted]))
        assert (
            columns.has(name).tolist() == [name in line and line[name] != "text" for line in lines] or name == "turns"
        )
        found = columns.on_every_line(name)
        assert found[columns.has(name)].tolist() == pytest.approx(values.tolist(), nan_ok=True)
        assert not found[~columns.has(name)].any()
        drawn = list(zip(*(part.tolist() for part in columns.thinned(name, 500)), strict=True))
        assert drawn == [(step, pytest.approx(value)) for step, value in thin(wanted, 500)]
    assert "digest" not in columns.names() and columns.names() <= {name for line in lines for name in line}


ODD = [
    b'{"step": 4, "loss": 1e400}',
    b'{"step": 5, "loss": true}',
    b'{"step": 6, "loss": null}',
    b'{"step": 7.0, "loss": 1}',
    b'{"step": true, "loss": 1}',
    b'{"step": 8, "loss": [1]}',
    b'{"step": -1, "loss": 1}',
    b'{"step": 1, "loss": ' + b"9" * 30 + b"}",
    b'{"step": 1, "loss": ' + b"9" * 400 + b"}",
    b'{"step": ' + b"9" * 30 + b"}",
    b"[" * 100_000,
    b"\xff",
    b"",
    b"no json",
    b'"text"',
]


def test_what_is_no_line_is_left_out(tmp_path):
    good = [json.dumps({"step": step, "loss": 0.5}).encode() for step in (1, 2, 3)]
    (tmp_path / NAME).write_bytes(b"\n".join([good[0], *ODD, *good[1:], b'{"step": 9, "torn']))
    columns = read_columns(tmp_path)
    steps, values = columns.points("loss")
    assert {1, 2, 3} <= set(steps.tolist()) and 9 not in steps and values[0] == values[-1] == 0.5


def test_a_missing_file_is_empty(tmp_path):
    assert len(read_columns(tmp_path)) == 0 and not list(read_metrics(tmp_path))
    assert MetricColumns().names() == set()
