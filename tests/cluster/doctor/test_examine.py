"""Nodes that meet in a folder; here they are threads. On a real cluster: tests/test_slurm_doctor.py."""

import errno
import threading
import time
from pathlib import Path

import pytest

from eyespot.cluster.doctor import signals
from eyespot.cluster.doctor.examine import examine, examine_here
from eyespot.cluster.processes import Place

NODES = ("n1", "n2", "n3")


@pytest.fixture
def examine_on(tmp_path):
    """``examine_on("n1", ...)``: the verdicts of these nodes of three, without a run's recipe."""

    def start(*nodes, seconds=20.0):
        verdicts = {}

        def look(index):
            place = Place(index=index, nodes=NODES, processes=1, job="999999", requeues=0)
            verdicts[NODES[index]] = examine(tmp_path / "run", place, "key", seconds)

        threads = [threading.Thread(target=look, args=(NODES.index(node),)) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return verdicts

    return start


def test_all_nodes_have_the_same_verdict_and_it_is_kept(examine_on, tmp_path, capsys):
    verdicts = examine_on(*NODES)
    first = verdicts["n1"]
    assert first.ok, first.why
    assert verdicts == dict.fromkeys(NODES, first)
    assert {finding.node for finding in first.findings if finding.check == "renames"} == set(NODES)
    folder = tmp_path / "run" / "cluster" / "doctor" / "key"
    assert "doctor: the run can start" in (folder / "report.txt").read_text()
    assert capsys.readouterr().err.count("doctor on 3 nodes, 3 ranks") == 1


def test_a_node_that_does_not_come_is_named(examine_on):
    begin = time.monotonic()
    verdicts = examine_on("n1", "n2", seconds=5.0)
    assert time.monotonic() - begin < 15
    for verdict in verdicts.values():
        assert [(f.check, f.node) for f in verdict.failed if f.check == "nodes"] == [("nodes", "n3")]


def test_without_the_first_node_the_others_give_up(examine_on, monkeypatch):
    monkeypatch.setattr("eyespot.cluster.doctor.examine.GRACE_SECONDS", 0.5)
    verdict = examine_on("n3", seconds=2.0)["n3"]
    assert [(finding.check, finding.node) for finding in verdict.failed] == [("nodes", "n1")]


def test_a_node_that_cannot_write_says_so_itself(examine_on, tmp_path, capsys):
    (tmp_path / "run").write_text("a file where the folder should be")
    verdict = examine_on("n2")["n2"]
    assert [(finding.check, finding.node) for finding in verdict.failed] == [("run folder", "n2")]
    assert "doctor on n2, alone" in capsys.readouterr().err


def test_a_node_on_which_looking_fails_says_so_and_nobody_waits(examine_on, monkeypatch):
    look = signals.signal_finding

    def fail_on_the_first(context, bell, why_not):
        if context.node == "n1":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")  # as where no process can be started
        return look(context, bell, why_not)

    monkeypatch.setattr(signals, "signal_finding", fail_on_the_first)
    verdicts = examine_on(*NODES, seconds=8.0)
    assert verdicts == dict.fromkeys(NODES, verdicts["n1"])  # and not that the first node said nothing
    (failed,) = (finding for finding in verdicts["n1"].failed if finding.check == "doctor")
    assert failed.node == "n1" and "Cannot allocate memory" in failed.found


def test_this_machine_without_a_run():
    verdict = examine_here(run_dir=None, run_file=None, values={}, ranks=1, timeout_seconds=20.0)
    assert verdict.ok, verdict.why
    assert {finding.check for finding in verdict.findings} >= {"packages", "code", "limits", "GPUs"}


def test_a_run_folder_in_a_place_that_refuses():
    verdict = examine_here(run_dir=Path("/proc/1/run"), run_file=None, values={}, ranks=1, timeout_seconds=20.0)
    assert [finding.check for finding in verdict.failed] == ["run folder"]
