"""Tars of a store on a disk of this machine, some at a time: for what reads whole files, and none of them for long."""

import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience
from eyespot.data_pipeline.stores.store import Store

CHUNK = 8 << 20
"""Bytes that are asked for at once."""
AHEAD = 4
"""Requests in flight."""


class FetchedTars:
    """Downloads the files of a store when they are wanted. All stay where there is room for all.

    Args:
        store: where they lie.
        sizes: by key, of the files that may be wanted.
        folder: takes them.
    """

    def __init__(self, store: Store, sizes: dict[str, int], folder: Path) -> None:
        self.folder, self._store, self._sizes = folder, store, sizes
        self._keeps = sum(sizes.values()) < shutil.disk_usage(folder).free / 2
        self._patience = Patience(PATIENCE_SECONDS)
        self.digests: dict[str, str] = {}
        """By key, the sha256 of what was downloaded first."""

    def path(self, key: str) -> Path:
        """Where a file lies once it is here."""
        return self.folder / key

    def fetch(self, key: str) -> Path:
        """The file, downloaded where it is not here.

        Raises:
            UserError: the store refuses, the disk is full, or the file is another one than the first time.
            Outage: the store does not give it.
        """
        if (path := self.path(key)).exists():
            return path
        if (free := shutil.disk_usage(self.folder).free) < self._sizes[key]:
            what = f"{self._sizes[key] / 1e9:,.2f} GB of {key} do not fit ({free / 1e9:,.2f} GB are free)"
            raise UserError(f"{self.folder.parent}: {what}; set TMPDIR to a folder of a larger disk")
        digest = self._download(key, path)
        if self.digests.setdefault(key, digest) != digest or self._store.is_changed(key):
            raise UserError(f"{self._store.place(key)}: was replaced while it was read; begin again")
        return path

    def drop(self, key: str) -> None:
        """The file is not needed now."""
        if not self._keeps:
            self.path(key).unlink(missing_ok=True)

    def _download(self, key: str, path: Path) -> str:
        """Returns the sha256."""
        size, digest = self._sizes[key], hashlib.sha256()
        with path.open("wb") as file, ThreadPoolExecutor(AHEAD) as pool:
            for content in self._parts(key, size, pool):
                digest.update(content)
                file.write(content)
        return digest.hexdigest()

    def _parts(self, key: str, size: int, pool: ThreadPoolExecutor) -> Iterator[bytes]:
        def part(start: int) -> bytes:
            end = min(start + CHUNK, size)
            return self._patience.read(self._store.place(key), lambda: self._store.read(key, start, end))

        starts = list(range(0, size, CHUNK))
        flying = [pool.submit(part, start) for start in starts[:AHEAD]]
        for place in range(len(starts)):
            yield flying.pop(0).result()
            if place + AHEAD < len(starts):
                flying.append(pool.submit(part, starts[place + AHEAD]))
