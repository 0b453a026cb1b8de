"""Signals that ask for a stop set a flag; the second Ctrl-C does not wait."""

import os
import signal
from collections.abc import Iterator

import pytest

from eyespot.pretrain.loop.stop_signals import StopSignals


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


def test_a_second_ctrl_c_interrupts_at_once(stop):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_ctrl_c_after_another_signal_is_the_first_one(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.received == "SIGINT"


def test_signals_of_the_cluster_may_come_again(stop):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.received == "SIGUSR1"


def test_closing_brings_the_old_handlers_back():
    before = {number: signal.getsignal(number) for number in StopSignals.SIGNALS}
    StopSignals().close()
    assert {number: signal.getsignal(number) for number in StopSignals.SIGNALS} == before
