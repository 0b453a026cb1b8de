"""Reads the tables beside a manifest, .npy files that somebody else may have written."""

import hashlib
import math

import numpy as np

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import npy_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience, any_error, is_outage, words
from eyespot.data_pipeline.shards.paged.npy_header import LARGEST_HEADER, npy_header
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.stores.store import Store


class TableFiles:
    """Those of one shard folder. Read, never mapped: a file that is cut short while mapped kills the process.

    Args:
        folder: where it lies.
        store: of it.
        patience: with which a file server that does not answer is waited for.
        hashes: whether whole tables are compared with the manifest's sha256.
    """

    def __init__(self, folder: Location, store: Store, patience: Patience, *, hashes: bool) -> None:
        self._folder = folder
        self._store, self._patience, self._hashes = store, patience, hashes
        self.was_there = False
        """Whether all of the folder has been looked at: what is gone or short since then is waited for."""

    def rows(
        self,
        name: str,
        dtype: np.dtype,
        sha256: str,
        wanted: tuple[int, ...],
        of: str = "sample",
        *,
        grows: bool = False,
    ) -> np.ndarray:
        """All of a table, read-only.

        Args:
            name: of its file.
            dtype: of its rows.
            sha256: of the file.
            wanted: its shape, as the manifest says.
            of: what a row is of.
            grows: whether there may be more rows, of what was added later; then the digest is that of the first ones.

        Raises:
            UserError: it is missing, damaged, or not the manifest's.
            Outage: the store does not give it.
        """
        path, again = self._store.place(name), f"make it anew: eyespot shards index {self._folder}"
        count = math.prod(wanted)
        largest = LARGEST_HEADER + 2 * count * dtype.itemsize
        try:
            content = self._patience.read(path, lambda: self._store.read_whole(name, largest, first=grows), is_outage)
            shape, found, offset = npy_header(content)
            longer = grows and len(shape) == 1 and shape[0] > count
            if found != dtype or (shape != wanted and not longer):
                raise UserError(f"{path}: {shape} rows of {found} where the manifest says {wanted[0]} {of}s; {again}")
            rows = np.frombuffer(content, dtype, count, offset).reshape(wanted)
            content = npy_bytes(rows) if longer and self._hashes else content
        except foreign_json.ForeignJsonError as error:
            raise UserError(f"{path}: unreadable ({error.why}); {again}") from error
        except (OSError, ValueError) as error:
            why = words(error) if isinstance(error, OSError) else error
            raise UserError(f"{path}: unreadable ({why}); {again}") from error
        if self._hashes and _sha256(content, path) != sha256:
            raise UserError(f"{path}: changed since it was written (sha256 is not the manifest's); {again}")
        return rows

    def part(self, name: str, begin: int, end: int) -> bytes:
        """Bytes of a file, exactly so many.

        Raises:
            OSError: they cannot be read.
        """
        waits = any_error if self.was_there else is_outage
        return self._patience.read(self._store.place(name), lambda: self._store.read(name, begin, end), waits)


def _sha256(content: bytes, path: Location) -> str:
    """Of what was read from ``path``."""
    return hashlib.sha256(content).hexdigest()
