"""Locks: ours, somebody else's, and on file systems that have none."""

import errno
import fcntl
import os

import pytest

from eyespot.data_pipeline import file_locks


def test_one_holder(tmp_path):
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert file_locks.lock(one.fileno()) == "held"
        assert file_locks.lock(other.fileno()) == "taken"
        one.close()
        assert file_locks.lock(other.fileno(), wait=True) == "held"


@pytest.mark.parametrize("number", sorted(file_locks.NO_LOCKS))
def test_a_file_system_without_locks_is_nobody_elses_doing(number, tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "lock").open("w") as file:
        assert file_locks.lock(file.fileno()) == file_locks.lock(file.fileno(), wait=True) == "unknown"


def test_an_outage_is_raised(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match="Input/output"):
        file_locks.lock(file.fileno())
