"""MixedStore: the stores of several sources as one, for whoever reads tars by their keys."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.stores.store import Stat, Store


class MixedStore(Store):
    """Keys are the number of a source, a slash, and the key there; see ``Store``.

    Args:
        location: what the mixture is called.
        sources: the store of each.
    """

    def __init__(self, location: Path, sources: Sequence[Store]) -> None:
        self.location, self._sources = location, sources
        self.is_remote = any(source.is_remote for source in sources)

    def _of(self, key: str) -> tuple[Store, str]:
        number, _, own = key.partition("/")
        return self._sources[int(number)], own

    def place(self, key: str) -> Location:
        """As the source names it."""
        source, own = self._of(key)
        return source.place(own)

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes, from the source."""
        source, own = self._of(key)
        return source.read(own, start, end)

    def view(self, key: str, start: int, end: int) -> memoryview:
        """Bytes, from the source."""
        source, own = self._of(key)
        return source.view(own, start, end)

    def read_whole(self, key: str, largest: int, *, first: bool = False) -> bytes:
        """All of a file, from the source."""
        source, own = self._of(key)
        return source.read_whole(own, largest, first=first)

    def stat(self, key: str) -> Stat:
        """Size and tag, from the source."""
        source, own = self._of(key)
        return source.stat(own)

    def stats(self, keys: Iterable[str]) -> dict[str, Stat]:
        """Of those that are there, by one question to each source."""
        asked: dict[int, list[str]] = {}
        for key in keys:
            number, _, own = key.partition("/")
            asked.setdefault(int(number), []).append(own)
        return {
            f"{number}/{own}": stat
            for number, own_keys in asked.items()
            for own, stat in self._sources[number].stats(own_keys).items()
        }

    def list(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        """All files below a folder of all sources."""
        for number, source in enumerate(self._sources):
            for own, stat in source.list(prefix):
                yield f"{number}/{own}", stat

    def put(self, key: str, content: bytes) -> None:
        """Into the source."""
        source, own = self._of(key)
        source.put(own, content)

    def is_changed(self, key: str) -> bool:
        """Whether the source says so."""
        source, own = self._of(key)
        return source.is_changed(own)
