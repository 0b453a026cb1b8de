"""Run folders, RUN/cluster and SLURM put together; the parts that need a cluster are in test_slurm_watching.py."""

import json
import os
import time

import pytest

from eyespot.cluster.status.records import JobLine, Records
from eyespot.cluster.status.survey import Status, duration, find_runs, survey
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.tracking import metrics_file


def make_run(folder, *, steps=100, lines=0, age=0.0, log="", submitted=True):
    """A run that logged ``lines`` steps, one per second, the last so many seconds ago."""
    (folder / "logs").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": steps}}))
    now = time.time() - age
    values = [{"step": i, "time": now - lines + i, "loss": 0.5, "images_per_second": 9.0} for i in range(1, lines + 1)]
    (folder / metrics_file.NAME).write_bytes(b"".join(map(metrics_file.encode, values)))
    (folder / "logs" / "rank-0.log").write_text(f"2026-01-02 03:05:00,000 INFO {log}\n" if log else "")
    for path in (folder / metrics_file.NAME, folder / "logs" / "rank-0.log"):
        os.utime(path, (now, now))
    if submitted:
        line = JobLine(job="7", kind="pretrain", submitted=now, log=str(folder / "7_0_log.err"), nodes=2, processes=1)
        Records(folder).add_job(line)
    return folder


def look(run_dir) -> Status:
    return survey([run_dir]).runs[0]


@pytest.fixture
def no_slurm(monkeypatch, tmp_path_factory):
    """A machine without SLURM: what the folder tells is all there is."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


def test_runs_are_found_in_folders_and_sweeps(tmp_path):
    one, sweep = make_run(tmp_path / "one", submitted=False), tmp_path / "sweep"
    inside = [make_run(sweep / name, submitted=False) for name in ("lr=1", "lr=2")]
    (sweep / "cluster" / "submitit").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert find_runs([tmp_path]) == [one, *inside]
    assert find_runs([sweep, inside[0], one]) == [*inside, one]
    with pytest.raises(UserError, match="absent: no such folder"):
        find_runs([tmp_path / "absent"])
    with pytest.raises(UserError, match="notes: holds no runs"):
        find_runs([tmp_path / "notes"])


STOPPED = "stopped", "stopped as asked (--stop-after)"


@pytest.mark.parametrize(
    ("made", "state", "words"),
    [
        (dict(lines=100, log="done: step 100 of 100"), "done", "done"),
        (dict(lines=40, log="done: step 40 of 100"), *STOPPED),
        (
            dict(lines=40, log="stopped as asked after step 40 of 100 (--stop-after); go on with --resume auto"),
            *STOPPED,
        ),
        (dict(lines=40, log="stopped by SIGTERM after step 40; go on"), "stopped", "stopped, saved"),
        (dict(lines=40, log="stopped: the loss is not finite"), "failed", "failed"),
        (dict(lines=40, age=60), "running", "running"),
        (dict(lines=40, age=3600), "failed", "ended without a word 1 h ago (killed?)"),
    ],
)
def test_runs_by_hand(tmp_path, made, state, words):
    status = look(make_run(tmp_path / "run", submitted=False, **made))
    assert (status.state, status.words, status.job) == (state, words, None)
    assert status.step == made["lines"]
    assert (status.seconds_left is None) == (state != "running")


def test_time_left_is_that_of_the_steps(tmp_path):
    assert look(make_run(tmp_path / "run", lines=40, submitted=False)).seconds_left == pytest.approx(60)


def test_a_failed_run_says_why_and_how_it_goes_on(tmp_path):
    run = make_run(tmp_path / "run", lines=4, log="stopped: the loss is not finite", submitted=False)
    assert look(run).notes == (
        "stopped: the loss is not finite",
        f"go on with: eyespot pretrain --from {run} --run-dir {run} --resume auto",
    )


def test_not_started(tmp_path):
    (tmp_path / "run" / "cluster").mkdir(parents=True)
    (tmp_path / "run" / "cluster" / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": 9}}))
    status = look(tmp_path / "run")
    assert (status.state, status.recipe, status.steps) == ("new", "mae_tiny", 9)


@pytest.mark.usefixtures("no_slurm")
def test_without_slurm_the_folder_tells_what_it_knows(tmp_path):
    run = make_run(tmp_path / "run", lines=40)
    records = Records(run)
    told = survey([run])
    assert told.slurm_error == "its commands are not installed here"
    assert (told.runs[0].state, told.runs[0].job, told.runs[0].num_nodes) == ("unknown", "7", 2)
    attempt = records.start_attempt(job="7", requeues=0, nodes=("node1", "node2"))
    records.beat("node1", job="7", requeues=0, state="the ranks run")
    assert (look(run).state, look(run).words) == ("running", "running, say its nodes")
    records.end_attempt(attempt, "failed", "node2: rank 1 was killed by signal 9", ("node2",))
    second = records.start_attempt(job="7", requeues=1, nodes=("node1", "node2"))
    status = look(run)
    assert (status.requeues, status.notes[0]) == (1, "attempt 1 failed: node2: rank 1 was killed by signal 9")
    records.end_attempt(second, "failed", "node2: rank 1 was killed by signal 9 again", ("node2",))
    status = look(run)
    assert (status.state, status.nodes) == ("failed", ("node1", "node2"))
    assert status.notes == (
        "node2: rank 1 was killed by signal 9 again",
        "failed twice, excluded: node2",
        f"go on with: eyespot pretrain --from {run} --run-dir {run} --resume auto",
    )


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize(
    ("outcome", "state", "words"),
    [
        ("done", "done", "done"),
        ("stopped", "stopped", "stopped, saved"),
        ("wrong input", "failed", "its input is wrong"),
        ("doctor", "failed", "stopped by the doctor before training"),
    ],
)
def test_how_the_last_attempt_ended(tmp_path, outcome, state, words):
    run = make_run(tmp_path / "run", lines=40)
    records = Records(run)
    records.end_attempt(records.start_attempt(job="7", requeues=0, nodes=("node1",)), outcome, "because")
    records.submission_file.write_text("{}")
    status = look(run)
    assert (status.state, status.words) == (state, words)
    assert ("because" in status.notes) == (outcome != "done")
    assert (f"go on with: eyespot launch --again {run}" in status.notes) == (outcome != "done")


@pytest.mark.parametrize("place", ["steps", "time", "beat"])
def test_numbers_beyond_all_measure_hide_no_other_run(tmp_path, monkeypatch, no_slurm, place):
    huge = 10**400
    bad = make_run(tmp_path / "bad", steps=huge if place == "steps" else 100, lines=9, submitted=place == "beat")
    good = make_run(tmp_path / "good", lines=9, submitted=False)
    if place == "time":
        (bad / metrics_file.NAME).write_bytes(b"".join(b'{"step": %d, "time": %d}\n' % (n, huge) for n in (1, 2)))
    if place == "beat":
        Records(bad).beat("node1", job="7", requeues=0, state="")
        path = bad / "cluster" / "nodes" / "node1.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "time": float("-inf")}))
    told = survey([bad, good])
    assert told.runs[1].step == 9 and told.runs[0].steps in (None, 100)
    assert not told.runs[0].words.startswith("cannot be read")


def test_json_has_no_word_for_nan(tmp_path):
    run = make_run(tmp_path / "run", submitted=False)
    (run / metrics_file.NAME).write_bytes(metrics_file.encode({"step": 1, "time": 1.0, "loss": float("nan")}))
    values = survey([run]).values()
    assert json.loads(json.dumps(values, allow_nan=False))["runs"][0]["loss"] == "nan"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (90, "2 min"),
        (3600, "1 h"),
        (12000, "3 h 20 min"),
        (180000, "2 d 2 h"),
        (1e6, "11 d 14 h"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_durations(seconds, words):
    assert duration(float(seconds)) == words
