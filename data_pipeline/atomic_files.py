"""Files that appear whole or not at all, also when the machine dies in the middle."""

import errno
import functools
import io
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Writes a file beside ``path``, forces it to disk and renames it into place; ``private``: for its owner alone."""
    write_blocks(path, [data], private=private)


def write_blocks(path: Path, blocks: Iterable[bytes], *, private: bool = False) -> None:
    """``write_bytes`` of bytes that come some at a time."""
    temporary = path.with_name(path.name + ".tmp")
    if private:
        temporary.unlink(missing_ok=True)
        temporary.touch(0o600)
    with temporary.open("wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        sync(file.fileno())
    commit(temporary, path)


def commit(temporary: Path, path: Path) -> None:
    """Renames a finished, synced file into place and syncs the folder that names it."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        sync(folder)
    finally:
        os.close(folder)


def sync(file: int) -> None:
    """Forces an open file or folder to disk; one whose file system does not do that is as safe there as it can be.

    Raises:
        OSError: the disk is full or broken.
    """
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        _say_once(error.strerror or str(error))


@functools.cache
def _say_once(why: str) -> None:
    logging.getLogger("eyespot").warning(
        "this file system does not force files to disk (fsync: %s): a power cut may cost the newest checkpoints", why
    )


def npy_bytes(array: np.ndarray) -> bytes:
    """What ``np.save`` writes."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
