"""A file is there whole, or as it was before."""

from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.atomic_files import npy_bytes, write_bytes


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path):
    write_bytes(tmp_path / "a", b"one")
    write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path):
    write_bytes(tmp_path / "a", b"one")
    (tmp_path / "a.tmp").mkdir()  # stands in the way
    with pytest.raises(OSError):
        write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_npy_bytes_are_what_numpy_saves(tmp_path: Path):
    array = np.arange(6, dtype="<u2").reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    assert npy_bytes(array) == (tmp_path / "a.npy").read_bytes()
