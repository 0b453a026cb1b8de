"""Which runs there are, and what is kept of them."""

import shutil
import threading

import pytest
from watched_runs import add_lines, begin_run

from eyespot.cluster.status import survey
from eyespot.cluster.status.records import JobLine, Records
from eyespot.cluster.web import run_list
from eyespot.cluster.web.run_list import RunList


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run_list, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(run_list, "SEARCH_SECONDS", 0.0)


def look(runs: RunList):
    runs._fresh_until = runs._search_at = 0.0
    return runs.look()


def test_runs_come_grow_and_go(tmp_path):
    begin_run(tmp_path / "runs" / "a")
    begin_run(tmp_path / "runs" / "sweep" / "b", lines=0)
    runs = RunList([tmp_path / "runs"])
    found = look(runs).runs
    assert list(found) == ["a", "sweep/b"] and found["a"].status.step == 11 and found["a"].sketch.points[-1][0] == 11
    add_lines(tmp_path / "runs" / "a", range(12, 20))
    begin_run(tmp_path / "runs" / "c")
    shutil.rmtree(tmp_path / "runs" / "sweep" / "b")
    found = look(runs).runs
    assert list(found) == ["a", "c", "sweep/b"] and found["a"].status.step == 19
    assert "not there any more" in found["sweep/b"].problem and found["c"].problem == ""


def test_who_looks_at_one_run_does_not_look_at_the_others(tmp_path, monkeypatch):
    for name in "abc":
        begin_run(tmp_path / name)
    runs, known, asked = RunList([tmp_path]), run_list.survey, []
    look(runs)
    monkeypatch.setattr(
        run_list, "survey", lambda run_dirs, **words: asked.extend(run_dirs) or known(run_dirs, **words)
    )
    for name in "abc":
        add_lines(tmp_path / name, range(12, 20))
    found = runs.find("b", fresh=True)
    assert found is not None and found[1].status.step == 19 and asked == [tmp_path / "b"]
    assert runs.find("a", fresh=False)[1].status.step == 11 and len(asked) == 1
    assert runs.find("none", fresh=True) is None


def test_several_places_have_names_that_tell_them_apart(tmp_path):
    for place in ("one/a", "two/a"):
        begin_run(tmp_path / place)
    assert list(look(RunList([tmp_path / "one", tmp_path / "two" / "a"])).runs) == ["one/a", "two/a"]
    assert list(look(RunList([tmp_path / "one" / "a"])).runs) == ["a"]


def test_an_empty_folder_and_one_that_goes_away_stay_up(tmp_path):
    (tmp_path / "runs").mkdir()
    runs = RunList([tmp_path / "runs"])
    assert look(runs).runs == {}
    (tmp_path / "runs").rmdir()
    assert "cannot be read" in look(runs).problems[0]


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "~x", "x\u202ey", "?token=secret12345"])
def test_names_that_no_address_holds_get_another(tmp_path, name):
    begin_run(tmp_path / name)
    (key,) = look(RunList([tmp_path])).runs
    assert key.startswith("~") and len(key) == 17


def test_one_run_that_cannot_be_told_does_not_hide_the_others(tmp_path, monkeypatch):
    known, asked = survey.read_run_state, []
    for name in "abc":
        begin_run(tmp_path / name)
        Records(tmp_path / name).add_job(JobLine(job="7", kind="eval", submitted=1.0, log="", nodes=1, processes=1))

    def read(run_dir, *args, **kwargs):
        if run_dir.name == "b":
            raise OSError(116, "Stale file handle")
        return known(run_dir, *args, **kwargs)

    monkeypatch.setattr(survey, "read_run_state", read)
    monkeypatch.setattr(survey, "ask_slurm", lambda ids: (asked.append(list(ids)), ({}, None))[1])
    found = look(RunList([tmp_path])).runs
    assert found["b"].status.words == "cannot be read (Stale file handle)" and found["b"].status.state == "unknown"
    assert found["a"].status.step == found["c"].status.step == 11
    assert asked == [["7", "7", "7"]], "SLURM is asked once for all"


def test_what_lies_behind_links_is_shown_to_nobody(tmp_path):
    """Neither what a stranger's run folder links to, nor what a link leads to that has taken the folder's place."""
    private, run = begin_run(tmp_path / "private" / "run", steps=777), tmp_path / "runs" / "theirs"
    (private / "logs" / "rank-0.log").write_text("2026-01-01 00:00:00,000 ERROR stopped: my secret\n")
    (private / "checkpoints" / "step-00000055").mkdir(parents=True)
    (private / "checkpoints" / "step-00000055" / "meta.json").write_text("{}")
    shutil.copytree(private, private / "cluster")
    Records(private).add_job(JobLine(job="7", kind="pretrain", submitted=1.0, log="", nodes=1, processes=1))
    run.mkdir(parents=True)
    for name in ("run.json", "metrics.jsonl", "logs", "checkpoints", "cluster"):
        (run / name).symlink_to(private / name)
    runs = RunList([tmp_path / "runs"])
    status = look(runs).runs["theirs"].status
    assert (status.recipe, status.steps, status.step, status.loss, status.job) == ("", None, 0, None, None)
    assert (status.checkpoint_step, status.state) == (None, "new") and "secret" not in str(status)
    shutil.rmtree(run)
    begin_run(run)
    assert look(runs).runs["theirs"].status.steps == 100
    shutil.rmtree(run)
    run.symlink_to(private)
    seen = look(runs).runs["theirs"]
    assert seen.status.steps == 100 and "not there" in seen.problem and runs.find("theirs", fresh=True) is None


def test_a_search_takes_time_by_the_number_of_runs(tmp_path, monkeypatch):
    compared = []

    class Counted(type(tmp_path)):
        __hash__ = type(tmp_path).__hash__

        def __eq__(self, other):
            compared.append(1)
            return super().__eq__(other)

    monkeypatch.setattr(run_list, "runs_inside", lambda place, errors: (Counted(f"/none/{n}") for n in range(300)))
    runs = RunList([tmp_path])
    for _ in range(3):
        runs._search()
    assert len(runs._found) == 300 and len(compared) < 20 * 300


def test_runs_that_went_are_not_kept_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(run_list, "MOST_RUNS", 2)
    runs = RunList([tmp_path])
    for name in "abcd":
        begin_run(tmp_path / name)
        assert len(look(runs).runs) <= 2
        shutil.rmtree(tmp_path / name)
    assert len(runs._known) <= 2


def test_while_a_look_hangs_the_last_one_is_given(tmp_path, monkeypatch):
    begin_run(tmp_path / "a")
    runs = RunList([tmp_path])
    first, begun, go = look(runs), threading.Event(), threading.Event()
    known = run_list.survey
    monkeypatch.setattr(
        run_list, "survey", lambda run_dirs, **words: (begun.set(), go.wait(20), known(run_dirs, **words))[2]
    )
    hanging = threading.Thread(target=look, args=[runs])
    hanging.start()
    assert begun.wait(20) and runs.look() is first
    go.set()
    hanging.join(20)
    assert runs.look() is not first


def test_curves_that_nobody_looks_at_are_let_go(tmp_path, monkeypatch):
    for name in "abc":
        begin_run(tmp_path / name, lines=300)
    runs = RunList([tmp_path])
    a, b, c = look(runs).runs.values()
    first = runs.metrics(a)
    first.read(10)
    assert runs.metrics(a) is first
    monkeypatch.setattr(run_list, "MEMORY_BYTES", first.nbytes * 2 + 1)
    for seen in (b, c):
        runs.metrics(seen).read(10)
    assert runs.metrics(c) is not None and runs.metrics(a) is not first


def test_files_are_read_again_only_when_they_change(tmp_path):
    begin_run(tmp_path / "a")
    runs = RunList([tmp_path])
    (seen,) = look(runs).runs.values()
    files = runs.files(seen)
    assert runs.files(seen) is files
    (tmp_path / "a" / "eval" / "x.json").write_text("{}")
    assert runs.files(seen) is not files
