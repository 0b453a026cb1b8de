"""Indexes tars in an object store, where they lie: each is downloaded for as long as it is read, none stays.

What reads tars wants files. Where this machine has room for all tars they are downloaded once; else twice, for the
labels of all are known only when all have been listed, and before the first image is measured.
"""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience, is_outage
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS
from eyespot.data_pipeline.shards.image_workers import CHUNK, NUM_WORKERS
from eyespot.data_pipeline.shards.index_tars import index_contents, plain_tars, reading_of, whole_contents
from eyespot.data_pipeline.shards.manifest import Manifest, Reading
from eyespot.data_pipeline.shards.members.items import Item
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.remote.fetched_tars import FetchedTars
from eyespot.data_pipeline.stores.location import Address
from eyespot.data_pipeline.stores.open_store import open_store
from eyespot.data_pipeline.stores.store import Store
from eyespot.data_pipeline.stores.store_errors import Denied

BESIDE = (".parquet", ".json")
LARGEST_BESIDE = 1 << 30
"""Bytes of a table beside the tars that is looked into."""


def index_store(
    place: Address,
    workers: int = NUM_WORKERS,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    max_pixels: int = MAX_PIXELS,
    to: Path | None = None,
) -> Manifest:
    """As ``index_folder``, of an address: manifest, index and .idx files are put beside the tars.

    Args:
        place: where the tars lie.
        workers: as there.
        reading: as there.
        max_pixels: as there.
        to: a folder that the files are written to instead, for who may not write to the store.

    Raises:
        UserError: as there; or the store cannot be listed, or may not be written.
        Outage: the store does not answer.
    """
    if place.scheme in ("http", "https", "hf"):
        raise UserError(f"{place}: cannot be listed; download the folder, run eyespot shards index there, and upload")
    store = open_store(place)
    with tempfile.TemporaryDirectory(prefix="eyespot-index-") as work:
        folder = Path(work) / place.name
        folder.mkdir()
        fetched, tars, beside = _listed(place, store, folder)
        contents = whole_contents(folder, _in_turn(fetched, tars), reading_of(folder, reading), beside)
        contents.shown = str(place)
        contents.stored = {fetched.path(key): (size, fetched.digests[key]) for key, size in tars.items()}
        contents.items = FetchedItems(contents.items, fetched, workers)
        manifest = index_contents(folder, contents, workers, max_pixels)
        for key in tars:
            fetched.path(key).unlink(missing_ok=True)
        made = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_beside(path.name))
        _write(store, place, folder, [*made, folder / "manifest.json"], to)
    return manifest


class FetchedItems(Sequence[Item]):
    """Items whose tars are on the disk when they are taken, in order and by slices, as ``examine_items`` does."""

    def __init__(self, items: Sequence[Item], fetched: FetchedTars, workers: int) -> None:
        self._items, self._fetched, self._behind = items, fetched, (3 * workers + 1) * CHUNK
        """So many items before those that are taken may still be read."""
        firsts = [0, *(place + 1 for place, (a, b) in enumerate(pairwise(items)) if a.path != b.path)]
        self._tars = [(place, Path(items[place].path).name) for place in firsts] if items else []
        """In order: the number of its first item, and its name."""

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            begin, end, _ = which.indices(len(self))
            for number, (first, name) in enumerate(self._tars):
                last = self._tars[number + 1][0] if number + 1 < len(self._tars) else len(self)
                if last <= begin - self._behind:
                    self._fetched.drop(name)
                elif first < end and begin < last:
                    self._fetched.fetch(name)
        return self._items[which]


def _listed(place: Address, store: Store, folder: Path) -> tuple[FetchedTars, dict[str, int], Tally]:
    """The tars with their sizes, and what else there is of tars; what lies beside them is downloaded."""
    patience = Patience(PATIENCE_SECONDS)
    found = patience.read(place, lambda: dict(store.list()), is_outage)
    sizes = {key: stat.size for key, stat in sorted(found.items())}
    names = {key: size for key, size in sizes.items() if "/" not in key and not key.startswith(".")}
    above = {key.partition("/")[0] for key in sizes if "/" in key and key.endswith(".tar")}
    beside = Tally()
    for name in sorted(above):
        beside.add("a folder of tars: has an index of its own", name)
    chosen = plain_tars(str(place), list(names), beside)
    fetched = FetchedTars(store, {name: names[name] for name in chosen} | _beside(names), folder)
    for name in _beside(names):
        fetched.fetch(name)
    return fetched, {name: names[name] for name in chosen}, beside


def _beside(names: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in names.items() if _is_beside(name) and size <= LARGEST_BESIDE}


def _is_beside(name: str) -> bool:
    return name.endswith(BESIDE)


def _in_turn(fetched: FetchedTars, tars: dict[str, int]) -> Iterator[Path]:
    for key in tars:
        yield fetched.fetch(key)
        fetched.drop(key)


def _write(store: Store, place: Address, folder: Path, made: list[Path], to: Path | None) -> None:
    """The manifest last: with the index of before it, who reads finds that they do not agree."""
    for path in made:
        key = path.relative_to(folder).as_posix()
        try:
            if to is None:
                Patience(PATIENCE_SECONDS).read(place / key, lambda: store.put(key, path.read_bytes()), is_outage)  # noqa: B023
            else:
                (to / key).parent.mkdir(parents=True, exist_ok=True)
                (to / key).write_bytes(path.read_bytes())
        except Denied as error:
            raise UserError(
                f"{str(error).partition(';')[0]}; write them to a folder, to be uploaded: --to DIR"
            ) from error
        except OSError as error:
            raise Outage(f"{to or place}: {key} cannot be written ({error.strerror or error})") from error
