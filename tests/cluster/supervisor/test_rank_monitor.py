"""A shift of ranks: from the first breath to the last."""

import os
import signal

import pytest
from node_ranks import wait_for_start

from eyespot.cluster.supervisor.rank_monitor import RankShift, StopRequest


@pytest.fixture
def shift(start, tmp_path):
    """``shift(*what)``: what the watch over such ranks reports; with what was said between."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
    }
    stop = StopRequest()

    def watch(*what: str, peers_failed: bool = False, saves: bool = True, stopped: bool = False):
        ranks = start(*what)
        wait_for_start(tmp_path, 0, 1)
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        states: set[str] = set()
        peers, logs = lambda: peers_failed, tmp_path
        report = RankShift(ranks, "here", stop, saves=saves, logs=logs, peers_failed=peers, tick=states.add).watch()
        return report, states

    yield watch
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_shift_that_ends_by_itself(shift):
    report, _ = shift("ends0", "ends3")
    assert (report.codes, report.killed, report.failed) == ((0, 3), (), True)


def test_a_stop_is_passed_on_until_all_have_saved(shift):
    report, states = shift("saves", stopped=True)
    assert (report.codes, report.killed, report.failed) == ((75, 75), (), False)
    assert states == {"stopping: the ranks save"}


def test_ranks_that_do_not_save_are_killed(shift, capsys):
    report, _ = shift("deaf", stopped=True, saves=False)
    assert (report.codes, report.killed) == ((-9, -9), (0, 1))


@pytest.mark.parametrize("peers_failed", [False, True])
def test_who_does_not_end_after_another_failed_is_killed(shift, peers_failed, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr("eyespot.cluster.supervisor.rank_monitor.GRACE_SECONDS", 1.0)
    (tmp_path / "rank-1.log").write_text("first\nstep 12, saving\n")
    report, _ = shift("ends0" if peers_failed else "ends1", "deaf", peers_failed=peers_failed)
    assert (report.codes, report.killed) == ((0 if peers_failed else 1, -9), (1,))
    assert "rank 1 is killed, 1 s after another failed, its log ends: step 12, saving" in capfd.readouterr().err


def test_a_stop_that_takes_too_long_is_said_and_ended(shift, monkeypatch, capfd):
    monkeypatch.setattr("eyespot.cluster.supervisor.rank_monitor.STOP_SECONDS", 2.0)
    monkeypatch.setattr("eyespot.cluster.supervisor.rank_monitor.SAY_SECONDS", 0.5)
    report, _ = shift("saves", "deaf", stopped=True)
    assert (report.codes, report.killed) == ((75, -9), (1,))
    said = capfd.readouterr().err
    assert "rank 1 has not stopped for 1 s, it has no log yet" in said
    assert "rank 1 is killed, 2 s after they were asked to stop" in said
