"""The lock of a run folder, above all where the file system has no locks: who wrote the file last is all there is."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.loop.run_lock import RunLock


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_it_says_who_has_it(tmp_path):
    lock = RunLock(tmp_path, 0.0)
    own = f"process {os.getpid()} on {socket.gethostname()}"
    assert (tmp_path / ".lock").read_text() == own
    with pytest.raises(UserError, match=f"in use by {own}; wait for it"):
        RunLock(tmp_path, 0.0)
    lock.release()
    RunLock(tmp_path, 0.0).release()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_lock_of_ours_is_refused_and_stays(kind, tmp_path):
    """A stranger's folder: a link would have us empty a file elsewhere."""
    place, other = tmp_path / ".lock", tmp_path / "notes.txt"
    other.write_text("mine")
    {"folder": place.mkdir, "pipe": lambda: os.mkfifo(place), "link": lambda: place.symlink_to(other)}[kind]()
    with pytest.raises(UserError, match=r"\.lock: .*; remove it or choose another --run-dir") as refused:
        RunLock(tmp_path, 0.0)
    assert "\n" not in str(refused.value) and other.read_text() == "mine"


def test_without_locks_the_log_says_so_and_the_run_goes_on(tmp_path, no_locks, caplog):
    RunLock(tmp_path, 0.0).release()
    (line,) = [record.message for record in caplog.records]
    assert line == f"run_dir {tmp_path}: this file system has no locks, so nothing keeps a second start out of it"
    assert (tmp_path / ".lock").read_text() == "", "a clean end leaves no name"


def test_without_locks_a_process_of_this_machine_still_has_it(tmp_path, no_locks):
    words, pipes = (
        [sys.executable, "-c", "print(flush=True); input()"],
        {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    )
    with subprocess.Popen(words, **pipes) as process:
        process.stdout.readline()  # before it has begun it has no name in /proc
        (tmp_path / ".lock").write_text(f"process {process.pid} on {socket.gethostname()}")
        with pytest.raises(UserError, match=f"in use by process {process.pid} on"):
            RunLock(tmp_path, 0.3)
        process.kill()
    RunLock(tmp_path, 0.0).release()


def test_without_locks_of_another_machine_nobody_can_tell(tmp_path, no_locks, caplog):
    (tmp_path / ".lock").write_text("process 1 on elsewhere")
    RunLock(tmp_path, 0.0).release()
    assert caplog.records[0].message.endswith("; last used by process 1 on elsewhere")
