"""RUN/cluster: what is written is read again, whatever is torn."""

import json
import os
import time

import pytest

from eyespot.cluster.status import records as records_module
from eyespot.cluster.status.records import JobLine, Records


def job(number: str) -> JobLine:
    return JobLine(job=number, kind="pretrain", submitted=1.5, log="here.err", nodes=2, processes=8)


def attempt(records: Records, blamed: tuple[str, ...]) -> None:
    started = records.start_attempt(job="7", requeues=0, nodes=("a", "b", "c"))
    records.end_attempt(started, "failed", "something", blamed)


def test_jobs_come_back_in_order(tmp_path):
    records = Records(tmp_path)
    assert records.jobs() == []
    assert not records.folder.exists()  # reading makes nothing
    records.add_job(job("1"))
    records.add_job(job("2_3"))
    assert records.jobs() == [job("1"), job("2_3")]


def test_an_attempt_has_a_start_and_an_end(tmp_path):
    records = Records(tmp_path)
    first = records.start_attempt(job="7", requeues=0, nodes=("a", "b"))
    assert records.attempts() == [first]
    assert (first.number, first.outcome, first.end) == (1, "running", None)
    records.end_attempt(first, "failed", "rank 3 died\nof something", ("b",))
    second = records.start_attempt(job="7", requeues=1, nodes=("a",))
    ended, running = Records(tmp_path).attempts()
    assert (ended.outcome, ended.why, ended.blamed) == ("failed", "rank 3 died of something", ("b",))
    assert ended.end is not None
    assert ended.end >= ended.start
    assert running == second
    assert second.number == 2


def test_the_first_word_on_an_attempt_holds(tmp_path):
    records = Records(tmp_path)
    lost = records.start_attempt(job="7", requeues=0, nodes=("a", "b"))
    records.end_attempt(lost, "failed", "b stopped answering", ("b",))
    records.end_attempt(lost, "done", "says b, back from nowhere")
    assert [found.why for found in records.attempts()] == ["b stopped answering"]


def test_torn_and_foreign_lines_are_skipped_and_the_next_line_is_whole(tmp_path):
    records = Records(tmp_path)
    records.add_job(job("1"))
    path = records.folder / "jobs.jsonl"
    with path.open("a") as file:
        file.write('[1]\n{"job": "2"}\n{"job": "3", "ki')
    records.add_job(job("4"))
    with path.open("a") as file:  # of a newer version
        file.write(json.dumps({**json.loads(path.read_text().splitlines()[0]), "job": "5", "colour": "red"}) + "\n")
    assert [line.job for line in records.jobs()] == ["1", "4", "5"]


def test_of_a_file_without_end_the_newest_lines_are_read(tmp_path, monkeypatch):
    records = Records(tmp_path)
    for number in range(5):
        records.add_job(job(str(number)))
    monkeypatch.setattr(records_module, "MOST_LINES", 2)
    assert [line.job for line in records.jobs()] == ["3", "4"]
    monkeypatch.setattr(records_module, "LARGEST", 100)
    assert records.jobs() == []


def test_nodes_that_fail_twice(tmp_path):
    records = Records(tmp_path)
    attempt(records, ("b",))
    assert records.failing_nodes() == []
    attempt(records, ("a", "b"))
    assert records.failing_nodes() == ["b"]
    assert records.failing_nodes(times=1) == ["a", "b"]


def test_beats(tmp_path):
    records = Records(tmp_path)
    assert records.beats() == {}
    records.beat("a", job="7", requeues=0, state="starting")
    records.beat("a", job="7", requeues=0, state="the ranks run")
    records.beat("b", job="7", requeues=0, state="starting")
    (records.folder / "nodes" / "c.json").write_text("half a b")
    beats = records.beats()
    assert {node: beat.state for node, beat in beats.items()} == {"a": "the ranks run", "b": "starting"}
    assert abs(beats["a"].time - time.time()) < 60


def test_cancel(tmp_path):
    records = Records(tmp_path)
    assert not records.cancelled
    records.ask_cancel()
    assert Records(tmp_path).cancelled
    records.forget_cancel()
    records.forget_cancel()
    assert not records.cancelled


@pytest.mark.parametrize("line", ["[" * 100_000, '{"job": 5}', '{"job": "1", "kind": "magic"}', "1" * 5000, "\xff"])
def test_lines_of_strangers_are_skipped(tmp_path, line):
    records = Records(tmp_path)
    records.add_job(job("1"))
    started = records.start_attempt(job="1", requeues=0, nodes=("a",))
    (records.folder / "nodes").mkdir()
    (records.folder / "nodes" / "x.json").write_text(line)
    odd = {**json.loads((records.folder / "jobs.jsonl").read_text()), "job": 5, "nodes": "x"}
    for name in ("jobs.jsonl", "attempts.jsonl"):
        with (records.folder / name).open("a", encoding="latin1") as file:
            file.write(f"{line}\n{json.dumps(odd)}\n")
    assert [one.job for one in records.jobs()] == ["1"]
    assert records.attempts() == [started]
    assert records.beats() == {}


def test_pipes_in_the_place_of_records_are_no_records(tmp_path):
    records = Records(tmp_path)
    (records.folder / "nodes").mkdir(parents=True)
    for name in ("jobs.jsonl", "attempts.jsonl", "nodes/x.json"):
        os.mkfifo(records.folder / name)
    assert (records.jobs(), records.attempts(), records.beats()) == ([], [], {})
