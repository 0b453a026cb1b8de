"""Signals that ask for a stop set a flag; the second Ctrl-C does not wait."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop import stop_signals
from eyespot.pretrain.loop.stop_signals import StopSignals, StopVote


def wait_for(there):
    until = time.monotonic() + 20
    while not there() and time.monotonic() < until:
        time.sleep(0.01)


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    opened = StopSignals()
    yield opened
    opened.close()


@pytest.mark.parametrize("number", StopSignals.SIGNALS)
def test_a_signal_is_noted_and_kills_nothing(stop, number):
    assert stop.received is None
    os.kill(os.getpid(), number)
    assert stop.received == signal.Signals(number).name


def test_a_second_ctrl_c_interrupts_at_once(stop, monkeypatch):
    monkeypatch.setattr(stop_signals, "SAME_SECONDS", 0.0)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_ctrl_c_after_another_signal_is_the_first_one(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.received == "SIGINT"


def test_what_a_launcher_passes_on_is_the_same_ctrl_c(stop):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.received == "SIGINT"


@pytest.mark.parametrize("number", StopSignals.SIGNALS)
def test_it_is_said_at_once_and_once(stop, number, caplog):
    for _ in range(3):
        os.kill(os.getpid(), number)
    wait_for(lambda: caplog.records)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"{signal.Signals(number).name}: the run saves a checkpoint and stops as soon as this step")
    assert "a second Ctrl-C ends it now" in line


def test_only_the_first_rank_says_it(stop, monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    assert not caplog.records and stop.received == "SIGTERM"


def test_it_is_said_while_the_main_thread_hears_nothing():
    """In C code no handler of Python's runs: a matrix product of seconds, a collective that waits for a dead rank."""
    script = (
        "import os, signal, threading, time\n"
        "from eyespot.pretrain.loop.stop_signals import StopSignals\n"
        "stop = StopSignals()\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "begin = time.monotonic()\n"
        "while time.monotonic() - begin < 3: libc.usleep(3000000)\n"
        "print('over', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None and process.stdout is not None
    assert "the run saves a checkpoint and stops" in process.stderr.readline()
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_second_ctrl_c_ends_a_process_that_hears_nothing(tmp_path):
    script = (
        "import os, signal, threading\n"
        "from eyespot.pretrain.loop import stop_signals\n"
        "stop_signals.SAME_SECONDS, stop_signals.END_SECONDS = 0.2, 0.2\n"
        "stop = stop_signals.StopSignals()\n"
        "for wait in (0.3, 1.0): threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "sleeper = threading.Event()\n"
        "while True:\n"
        "    try: sleeper.wait()\n"
        "    except KeyboardInterrupt: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1


def test_signals_of_the_cluster_may_come_again(stop):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.received == "SIGUSR1"


def test_closing_brings_the_old_handlers_back():
    before = {number: signal.getsignal(number) for number in StopSignals.SIGNALS}
    StopSignals().close()
    assert {number: signal.getsignal(number) for number in StopSignals.SIGNALS} == before


def test_a_process_alone_knows_at_once(stop):
    vote = StopVote(stop)
    assert vote.look() == (False, False)
    os.kill(os.getpid(), signal.SIGTERM)
    assert vote.look() == (True, False)
    assert vote.look(lost=True) == (True, True)
    assert vote.look() == (True, True), "what is lost stays so"


def looks(world: World) -> list[tuple[bool, bool]]:
    """Rank 1 is asked to stop before its third look; the fifth one waits."""
    stop = StopSignals()
    vote, found = StopVote(stop), []
    for number in range(6):
        if world.rank == 1 and number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        found.append(vote.look(lost=world.rank == 0 and number == 4, at_once=number == 4))
    stop.close()
    return found


def test_all_ranks_stop_at_the_same_look_the_next_one(on_ranks):
    nothing, stopping = (False, False), (True, False)
    assert on_ranks(looks, 2) == [[nothing, nothing, nothing, stopping, (True, True), (True, True)]] * 2
