"""Both stores have every method of Store."""

import pytest

from eyespot.data_pipeline.stores.folder_store import FolderStore
from eyespot.data_pipeline.stores.object_store import ObjectStore
from eyespot.data_pipeline.stores.store import Store


@pytest.mark.parametrize("kind", [FolderStore, ObjectStore])
def test_all_methods(kind):
    assert issubclass(kind, Store) and not kind.__abstractmethods__ and Store.__abstractmethods__
