"""Store: what is asked of wherever shards lie."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from eyespot.data_pipeline.stores.location import Location


@dataclass(frozen=True, slots=True)
class Stat:
    """Of one file or object."""

    size: int
    tag: str = ""
    """Changes when it is replaced (ETag); empty = the store has none."""


class Store(ABC):
    """The files below one location, named by keys relative to it: "manifest.json", "shard-000000.tar".

    Of every method: what is not there is a FileNotFoundError; what cannot be had now an OSError that
    ``patience.is_outage`` knows, after a few quick tries; what the store refuses (denied, expired, no such bucket) a
    UserError of one line with the fix. All may be called from many threads, and a store goes to other processes.
    """

    is_remote: bool

    @abstractmethod
    def place(self, key: str) -> Location:
        """The whole name of a key, for messages."""

    @abstractmethod
    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes from ``start`` to before ``end``: exactly so many, or an error; None = from the first, to the last.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it ends before ``end``, or cannot be had now.
            UserError: the store refuses.
        """

    def view(self, key: str, start: int, end: int) -> memoryview:
        """What ``read`` gives, of a store that has it in memory without a copy of it."""
        return memoryview(self.read(key, start, end))

    @abstractmethod
    def read_whole(self, key: str, largest: int, *, first: bool = False) -> bytes:
        """All of it; or the ``first`` so many bytes of a larger one.

        Raises:
            ForeignJsonError: it has more than ``largest`` bytes, or is no plain file.
            OSError, UserError: as ``read``.
        """

    @abstractmethod
    def stat(self, key: str) -> Stat:
        """Size and tag."""

    @abstractmethod
    def stats(self, keys: Iterable[str]) -> dict[str, Stat]:
        """Of those of the keys that are there; one listing where the store can list, else many questions at once."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        """All files below a folder, however deep, with their keys.

        Raises:
            UserError: the store cannot list, or not for us.
        """

    @abstractmethod
    def put(self, key: str, content: bytes) -> None:
        """Makes it, or replaces it as a whole."""

    @abstractmethod
    def is_changed(self, key: str) -> bool:
        """Whether a read found another object than the first look at it."""
