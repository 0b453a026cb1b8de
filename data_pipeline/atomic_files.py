"""Files that appear whole or not at all, also when the machine dies in the middle."""

import io
import os
from pathlib import Path

import numpy as np


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file beside ``path``, forces it to disk and renames it into place."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    commit(temporary, path)


def commit(temporary: Path, path: Path) -> None:
    """Renames a finished, synced file into place and syncs the folder that names it."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def npy_bytes(array: np.ndarray) -> bytes:
    """What ``np.save`` writes."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
