"""Reads manifest.json of a shard folder, or the one of before something was added, which stays beside it."""

import hashlib
import re

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience, is_outage, words
from eyespot.data_pipeline.shards.paged.file_sizes import MissingShards
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.stores.store import Store

NEWEST = "manifest.json"
_VERSION = re.compile("[0-9a-f]{64}")


def version_file(manifest_sha256: str) -> str:
    """What a manifest is called beside manifest.json, which is the newest: it stays when shards are added."""
    return f"manifest-{manifest_sha256[:12]}.json"


def read_manifest(
    folder: Location, store: Store, patience: Patience, version: str | None = None
) -> tuple[Location, bytes]:
    """The manifest of a shard folder, and where it lies.

    Args:
        folder: where it lies.
        store: of it.
        patience: with which a file server that does not answer is waited for.
        version: sha256 of the one that is wanted; None, or one that the folder never had = the newest.

    Raises:
        UserError: it is missing or unreadable.
        Outage: the store does not give it.
    """
    content = _read(folder, store, NEWEST, patience)
    if version is not None and _VERSION.fullmatch(version) and hashlib.sha256(content).hexdigest() != version:
        name = version_file(version)
        try:
            earlier = _read(folder, store, name, patience)
        except MissingShards:
            pass
        else:
            if hashlib.sha256(earlier).hexdigest() == version:
                return store.place(name), earlier
    return store.place(NEWEST), content


def _read(folder: Location, store: Store, name: str, patience: Patience) -> bytes:
    path, again = store.place(name), f"eyespot shards index {folder}"
    try:
        return patience.read(path, lambda: store.read_whole(name, foreign_json.LARGEST), is_outage)
    except FileNotFoundError as error:
        raise MissingShards(f"{path}: missing; make it with: {again}") from error
    except (OSError, foreign_json.ForeignJsonError) as error:
        why = words(error) if isinstance(error, OSError) else error.why
        raise UserError(f"{path}: unreadable ({why}); make it anew: {again}") from error
