"""The one way to a Store."""

from pathlib import Path

from eyespot.data_pipeline.stores.folder_store import FolderStore
from eyespot.data_pipeline.stores.location import Address, location_of
from eyespot.data_pipeline.stores.object_store import ObjectStore
from eyespot.data_pipeline.stores.store import Store


def open_store(location: str | Path | Address) -> Store:
    """The store of what lies below a path or an address (s3, gs, az, http, https, hf). Nothing is asked yet.

    Raises:
        UserError: it is no such location; or obstore, or its settings in the environment, are missing.
    """
    place = location_of(location)
    return FolderStore(place) if isinstance(place, Path) else ObjectStore(place)
