"""Whether the files that a manifest lists are there, and as long as it says."""

import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience, is_outage
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.stores.presence import status
from eyespot.data_pipeline.stores.store import Store

_COPY = "copy it again, or find all damage: eyespot shards verify"


class MissingShards(UserError):
    """Something that should be there is not: wrong, unless it was there before."""


def check_tar_sizes(folder: Location, store: Store, wanted: Sequence[tuple[str, int]], patience: Patience) -> None:
    """Whether each tar is there and has its size.

    Args:
        folder: where.
        store: of it.
        wanted: the key and the bytes of each.
        patience: with which a file server that does not answer is waited for.

    Raises:
        UserError: one is missing or has another size.
    """
    sizes = _sizes(folder, store, [key for key, _ in wanted], patience)
    for (key, size), found in zip(wanted, sizes, strict=True):
        path = store.place(key)
        if found is None:
            raise MissingShards(f"shards {path}: is missing; {_COPY}")
        if found != size:
            raise UserError(f"shards {path}: has {found} bytes where the manifest says {size}; {_COPY}")


def check_tar_names(folder: Location, store: Store, keys: Sequence[str], patience: Patience) -> None:
    """Whether each tar is there, by one listing, whatever their number.

    Raises:
        MissingShards: one is not.
    """
    there = patience.read(folder, lambda: _names(folder, store, keys), is_outage)
    if missing := [name for name in keys if name not in there]:
        more = f", and {len(missing) - 1} more tars" if len(missing) > 1 else ""
        raise MissingShards(f"shards {store.place(missing[0])}: is missing{more}; {_COPY}")


def check_piece_sizes(
    folder: Location, store: Store, wanted: Iterable[tuple[str, int, int]], patience: Patience
) -> None:
    """Whether each piece of an index is there and may hold its rows.

    Args:
        folder: where.
        store: of it.
        wanted: of each its key, the bytes of its rows, and the most that it may have with its header.
        patience: with which a file server that does not answer is waited for.

    Raises:
        UserError: one is missing or has another size.
    """
    told = list(wanted)
    for (key, least, most), found in zip(told, _sizes(folder, store, [key for key, *_ in told], patience), strict=True):
        if found is None or not least < found <= most:
            what = "is missing" if found is None else f"has {found} bytes where its rows take {least}"
            again = f"copy it again, or: eyespot shards index {folder}"
            raise UserError(f"{store.place(key)}: {what}; {again}")


def _sizes(folder: Location, store: Store, keys: Sequence[str], patience: Patience) -> Iterator[int | None]:
    """Bytes of each file; None = there is no plain file of that name."""
    if store.is_remote:
        stats = patience.read(folder, lambda: store.stats(keys), is_outage)
        yield from (stats[key].size if key in stats else None for key in keys)
        return
    for key in keys:
        found = status(Path(str(store.place(key))), patience)
        yield found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None


def _names(folder: Location, store: Store, keys: Sequence[str]) -> set[str]:
    """Of these files, and perhaps more, those that are there."""
    return set(store.stats(keys)) if store.is_remote else {path.name for path in Path(str(folder)).iterdir()}
