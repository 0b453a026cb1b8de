"""Whether something is there, in a file system or in a store."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience, is_outage, words
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.stores.open_store import open_store
from eyespot.data_pipeline.stores.store_errors import Denied


def status(path: Path, patience: Patience) -> os.stat_result | None:
    """None where there is nothing of that name.

    Raises:
        UserError: it may not be looked at.
    """
    try:
        return patience.read(path, path.stat, is_outage)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"shards {path}: cannot be looked at ({words(error)})") from error


def has_file(folder: Location, name: str, patience: Patience) -> bool:
    """Whether a folder has a file of that name.

    Raises:
        UserError: it may not be looked at.
        Outage: nobody says.
    """
    if isinstance(folder, Path):
        return status(folder / name, patience) is not None
    store = open_store(folder)
    try:
        patience.read(folder / name, lambda: store.stat(name), is_outage)
    except FileNotFoundError:
        return False
    return True


def each_with(name: str, folders: Sequence[Location], patience: Patience) -> Iterator[Location]:
    """Those of the folders that have a file of that name, in order; each is looked at when it is its turn.

    Raises:
        UserError: none has, and one may not be looked at: a store that does not let us list says so of what is missing.
    """
    denied, some = list[Denied](), False
    for folder in folders:
        try:
            there = has_file(folder, name, patience)
        except Denied as error:
            denied.append(error)
            continue
        some = some or there
        if there:
            yield folder
    if denied and not some:
        raise denied[0]


def first_with(name: str, folders: Sequence[Location], patience: Patience) -> Location | None:
    """The first of the folders that has a file of that name.

    Raises:
        UserError: as ``each_with``.
    """
    return next(each_with(name, folders, patience), None)
