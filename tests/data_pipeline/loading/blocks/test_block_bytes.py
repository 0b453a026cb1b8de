"""Where a block's bytes are held."""

import os

import pytest

from eyespot.data_pipeline.loading.blocks.block_bytes import BytesInFile, BytesInMemory, CacheDiskError


def test_memory_and_a_file_give_what_was_written(tmp_path):
    file = os.open(tmp_path / "block", os.O_RDWR | os.O_CREAT)
    for held in (BytesInMemory(10), BytesInFile(file)):
        held.write(4, b"defghi")
        held.write(0, b"0123")
        assert held.read(2, 5) == b"23def"


def test_a_file_closes_when_nobody_holds_it(tmp_path):
    file = os.open(tmp_path / "block", os.O_RDWR | os.O_CREAT)
    held = BytesInFile(file)
    del held
    with pytest.raises(OSError):
        os.fstat(file)


def test_what_a_disk_does_not_take_or_give_is_said(tmp_path):
    (tmp_path / "block").write_bytes(b"abc")
    held = BytesInFile(os.open(tmp_path / "block", os.O_RDONLY))
    with pytest.raises(CacheDiskError, match="Bad file descriptor"):
        held.write(0, b"d")
    with pytest.raises(OSError, match="ends after 1 of 2 bytes"):
        held.read(2, 2)
