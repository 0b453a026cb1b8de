"""Objects in the real store, and clients without long pauses."""

import numpy as np
import pytest

from eyespot.data_pipeline.stores import clients, object_store
from eyespot.data_pipeline.stores.object_store import ObjectStore

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


@pytest.fixture
def store(store_server, faults, monkeypatch) -> ObjectStore:
    """Of a folder with "some", "empty" and "deeper/one", read in parts of 100,000 bytes."""
    monkeypatch.setattr(object_store, "PART", 100_000)
    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(object_store, "FIRST_THROTTLED", 0.002)
    monkeypatch.setattr(clients, "SILENT_SECONDS", 1)
    for key, content in (("some", CONTENT), ("empty", b""), ("deeper/one", b"1")):
        store_server.put(f"stores/{key}", content)
    from eyespot.data_pipeline.stores.open_store import open_store

    return open_store("s3://data/stores")
