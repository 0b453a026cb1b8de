"""Reads are tried again until they work, and give up with one line that blames the file system."""

import errno
import logging
import pickle
import threading
import time
from pathlib import Path

import pytest

from eyespot.data_pipeline import patience as patience_file
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.patience import Patience, is_outage

FILE = Path("data/shard-000000.tar")


def failing(number: int, times: int):
    """A read that fails so many times."""
    left = [times]

    def read() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, "words of the system", str(FILE))
        return "content"

    return read


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EHOSTDOWN, errno.EACCES, errno.ENOENT, 9999])
def test_any_failure_of_a_file_that_was_there_is_waited_for_and_said_once(number, caplog):
    with caplog.at_level(logging.INFO, "eyespot"):
        assert Patience(30.0).read(FILE, failing(number, 3)) == "content"
    waits, goes_on = caplog.messages
    assert waits == f"{FILE}: words of the system; waiting up to 30 s for the file system"
    assert goes_on.startswith(f"{FILE}: can be read again, after")


def test_at_the_end_of_its_patience_it_blames_nobodys_input(caplog):
    began = time.monotonic()
    with pytest.raises(Outage) as caught, caplog.at_level(logging.INFO, "eyespot"):
        Patience(0.4).read(FILE, failing(errno.ETIMEDOUT, 10**9))
    assert 0.4 <= time.monotonic() - began < 2
    assert not isinstance(caught.value, UserError) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{FILE}: cannot be read for 0 s (words of the system)")
    assert len(caplog.messages) == 1  # that it waits


def test_without_patience_the_first_failure_is_the_last_but_one(caplog):
    with pytest.raises(Outage), caplog.at_level(logging.INFO, "eyespot"):
        Patience(0.0).read(FILE, failing(errno.EIO, 10**9))
    assert not caplog.messages


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP])
def test_what_no_outage_explains_is_told_at_once(number):
    with pytest.raises(OSError) as caught:
        Patience(60.0).read(FILE, failing(number, 1), is_outage)
    assert caught.value.errno == number


def test_what_shows_behind_an_outage_is_told_then():
    tries = iter([OSError(errno.ESTALE, ""), FileNotFoundError(errno.ENOENT, "")])

    def read() -> None:
        raise next(tries)

    with pytest.raises(FileNotFoundError):
        Patience(60.0).read(FILE, read, is_outage)


def test_pauses_grow_and_differ(monkeypatch):
    pauses: list[float] = []
    waited = Patience(1e9)
    monkeypatch.setattr(waited._closed, "wait", lambda seconds: pauses.append(seconds) and False)
    waited.read(FILE, failing(errno.EIO, 20))
    assert patience_file.FIRST_PAUSE / 2 <= pauses[0] <= patience_file.FIRST_PAUSE
    assert all(0.5 <= pause / patience_file.LONGEST_PAUSE <= 1 for pause in pauses[10:])
    assert len(set(pauses)) == len(pauses)


def test_many_threads_that_wait_say_it_once_between_them(caplog):
    patience, away = Patience(30.0), threading.Event()

    def read() -> str:
        if not away.is_set():
            raise OSError(errno.ESTALE, "Stale file handle")
        return "content"

    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(patience.read(FILE, read))) for _ in range(8)]
    with caplog.at_level(logging.INFO, "eyespot"):
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        away.set()
        for thread in threads:
            thread.join()
    assert found == ["content"] * 8
    assert len(caplog.messages) == 2


def test_who_waits_can_be_let_go():
    patience = Patience(60.0)
    threading.Timer(0.2, patience.close).start()
    began = time.monotonic()
    with pytest.raises(Outage):
        patience.read(FILE, failing(errno.EIO, 10**9))
    assert time.monotonic() - began < 10


def test_it_goes_to_other_processes_which_wait_for_themselves():
    """With every shard folder, whose locks would not."""
    assert pickle.loads(pickle.dumps(Patience(7.0))).seconds == 7.0
