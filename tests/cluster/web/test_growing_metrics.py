"""metrics.jsonl read as it grows, and whatever else may happen to a file."""

import json
import os
import tracemalloc

import numpy as np
import pytest

from eyespot.cluster.web import growing_metrics
from eyespot.cluster.web.growing_metrics import BLOCK_BYTES, GrowingMetrics


def line(step: int, **values) -> str:
    return json.dumps({"step": step, "time": 1e9 + step, **values}) + "\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(file, text: str, mode: str = "a") -> None:
    with file.open(mode) as opened:
        opened.write(text)


def losses(metrics: GrowingMetrics) -> dict[int, float]:
    assert metrics.read(60)
    series = metrics.series.get("loss")
    return dict(zip(series.steps.tolist(), series.means.tolist(), strict=True)) if series else {}


def test_only_what_is_new_is_read(tmp_path, file, monkeypatch):
    decoded = []
    known = growing_metrics.decoded
    monkeypatch.setattr(growing_metrics, "decoded", lambda text: decoded.append(text) or known(text))
    metrics = GrowingMetrics(tmp_path)
    assert losses(metrics) == {} and metrics.problem == ""  # not begun
    write(file, line(0, loss=3.0) + line(1, loss=2.0))
    assert losses(metrics) == {0: 3.0, 1: 2.0}
    epoch = metrics.epoch
    write(file, line(2, loss=1.0) + '{"step": 3, "lo')  # half a line
    assert losses(metrics) == {0: 3.0, 1: 2.0, 2: 1.0}
    write(file, 'ss": 0.5}\n')
    assert losses(metrics) == {0: 3.0, 1: 2.0, 2: 1.0, 3: 0.5} and metrics.epoch == epoch
    assert len(decoded) == 4 and metrics.num_left_out == 0 and metrics.last_step == 3


def test_a_torn_line_that_a_resumed_run_cuts_off_is_forgotten(tmp_path, file):
    metrics = GrowingMetrics(tmp_path)
    write(file, line(0, loss=3.0) + '{"step": 1, "loss": 9')
    assert losses(metrics) == {0: 3.0}
    os.truncate(file, len(line(0, loss=3.0)))
    write(file, line(1, loss=2.0, lr=0.25) + line(2, loss=1.0))
    assert losses(metrics) == {0: 3.0, 1: 2.0, 2: 1.0} and metrics.num_left_out == 0


def test_a_step_that_is_logged_again_replaces_it_and_what_came_after(tmp_path, file):
    metrics = GrowingMetrics(tmp_path)
    write(file, "".join(line(step, loss=1.0 * step) for step in range(8)))
    losses(metrics)
    epoch = metrics.epoch
    write(file, line(5, loss=50.0) + line(6, loss=60.0))
    assert losses(metrics) == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 50.0, 6: 60.0} and metrics.epoch > epoch


@pytest.mark.parametrize("inode", ["the same", "another"])
def test_a_file_that_was_replaced_is_read_anew(tmp_path, file, inode):
    metrics = GrowingMetrics(tmp_path)
    write(file, line(0, loss=3.0) + line(1, loss=2.0))
    losses(metrics)
    if inode == "another":
        file.unlink()
    write(file, line(0, loss=7.0) + line(1, loss=6.0) + line(2, loss=5.0), "w")
    assert losses(metrics) == {0: 7.0, 1: 6.0, 2: 5.0}
    write(file, line(0, loss=8.0), "w")  # and one that was cut
    assert losses(metrics) == {0: 8.0}


def test_a_longer_copy_of_the_same_file_is_read_on(tmp_path, file, monkeypatch):
    """rsync puts a new file in the place of the old one at every call."""
    metrics = GrowingMetrics(tmp_path)
    text = "".join(line(step, loss=1.0) for step in range(50))
    write(file, text)
    losses(metrics)
    epoch = metrics.epoch
    write(tmp_path / "copy", text + line(50, loss=2.0))
    (tmp_path / "copy").replace(file)
    assert losses(metrics)[50] == 2.0 and metrics.epoch == epoch


def test_what_cannot_be_read_is_said_and_what_was_known_stays(tmp_path, file):
    metrics = GrowingMetrics(tmp_path)
    write(file, line(0, loss=3.0))
    losses(metrics)
    file.rename(tmp_path / "away")
    assert losses(metrics) == {0: 3.0} and "not there any more" in metrics.problem
    file.symlink_to(tmp_path / "away")  # which is nothing that may be followed
    assert losses(metrics) == {0: 3.0} and "cannot be read" in metrics.problem
    file.unlink()
    os.mkfifo(file)  # nor waited for
    assert losses(metrics) == {0: 3.0} and "not a plain file" in metrics.problem
    file.unlink()
    (tmp_path / "away").rename(file)
    assert losses(metrics) == {0: 3.0} and metrics.problem == ""


def test_hostile_lines_cost_only_themselves(tmp_path, file):
    good = line(1, loss=2.0)
    wide = json.dumps({"step": 2, **{f"name{number}": number for number in range(100_000)}}) + "\n"  # over a block
    many = json.dumps({"step": 3, **{f"name{number}": number for number in range(5000)}}) + "\n"
    rubbish = [
        "[1]",
        "null",
        "{",
        '{"step": -1}',
        '{"step": 1e999}',
        "[" * 50_000,
        '{"step": ' + "9" * 5000 + "}",
        "\x00\xff",
    ]
    write(file, good + "\n".join(rubbish) + "\n" + wide + many)
    write(file, line(4, loss=10**400, lr="NaN", text="<script>", deep=1) + line(5, loss="Infinity"))
    metrics = GrowingMetrics(tmp_path)
    assert len(wide) > BLOCK_BYTES and losses(metrics) == {1: 2.0}
    assert metrics.num_left_out == len(rubbish) + 1
    assert len(metrics.series) == growing_metrics.MOST_NAMES
    assert metrics.names_left_out == 5000 + len(["loss", "time", "lr", "deep"]) - growing_metrics.MOST_NAMES
    assert metrics.series["loss"].num_broken >= 1 and "text" not in metrics.series


def test_a_long_file_comes_in_slices(tmp_path, file):
    write(file, "".join(line(step, loss=1.0, lr=0.5) for step in range(10_000)))
    metrics = GrowingMetrics(tmp_path)
    assert not metrics.read(0.0) and 0 < metrics.share_read < 1
    first = len(metrics.series["loss"])
    while not metrics.read(0.0):
        pass
    assert 0 < first < 10_000 == len(metrics.series["loss"]) and metrics.share_read == 1
    assert np.array_equal(metrics.series["lr"].steps, np.arange(10_000))


@pytest.mark.thorough
def test_a_line_of_a_gigabyte_is_passed_over(tmp_path, file):
    write(file, line(0, loss=3.0))
    with file.open("r+b") as opened:
        opened.truncate(1 << 30)  # zeros that no disk holds
    write(file, "\n" + line(1, loss=2.0))
    metrics = GrowingMetrics(tmp_path)
    tracemalloc.start()
    assert losses(metrics) == {0: 3.0, 1: 2.0} and metrics.num_left_out == 1
    assert tracemalloc.get_traced_memory()[1] < 10 * BLOCK_BYTES
    tracemalloc.stop()


def test_memory_is_bounded(tmp_path, file, monkeypatch):
    monkeypatch.setattr(growing_metrics, "MOST_POINTS", 2000)
    write(file, "".join(line(step, **{f"name{number}": step for number in range(20)}) for step in range(3000)))
    metrics = GrowingMetrics(tmp_path)
    assert metrics.read(10) and sum(map(len, metrics.series.values())) <= 2000
    assert metrics.nbytes > 0 and metrics.series["name7"].steps[-1] == 2999
