"""FolderStore: a folder of a file system as a Store."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.plain_files import open_plain
from eyespot.data_pipeline.stores.store import Stat, Store


class FolderStore(Store):
    """The files of one folder; see ``Store``.

    Args:
        location: the folder.
    """

    is_remote = False

    def __init__(self, location: Path) -> None:
        self.location = location

    def place(self, key: str) -> Path:
        """The file's path."""
        return self.location / key

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes of a plain file."""
        with open_plain(self.place(key)) as file:
            start = start or 0
            wanted = (os.fstat(file.fileno()).st_size if end is None else end) - start
            content = os.pread(file.fileno(), max(0, wanted), start)
        if len(content) != wanted:
            raise OSError(f"ends after {len(content)} of {wanted} bytes from byte {start}")
        return content

    def read_whole(self, key: str, largest: int, *, first: bool = False) -> bytes:
        """All of a plain file, or the first of a larger one."""
        return foreign_json.read_bytes(self.place(key), largest, first=first)

    def stat(self, key: str) -> Stat:
        """Its size; files have no tag."""
        found = self.place(key).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{self.place(key)}: not a plain file")
        return Stat(found.st_size)

    def stats(self, keys: Iterable[str]) -> dict[str, Stat]:
        """Of the files that are there."""
        found: dict[str, Stat] = {}
        for key in keys:
            try:
                found[key] = self.stat(key)
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found

    def list(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        """All plain files below."""
        for folder, folders, names in os.walk(self.place(prefix)):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file():
                    yield path.relative_to(self.location).as_posix(), Stat(path.stat().st_size)

    def put(self, key: str, content: bytes) -> None:
        """Writes beside it, then renames."""
        self.place(key).parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_bytes(self.place(key), content)

    def is_changed(self, key: str) -> bool:
        """What was read from a folder is compared by its checksum alone."""
        return False
