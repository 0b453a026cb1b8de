"""A folder as a store: the same answers as of an object store, and a pipe is no file."""

import os

import pytest

from eyespot.data_pipeline.foreign_json import ForeignJsonError
from eyespot.data_pipeline.stores.folder_store import FolderStore
from eyespot.data_pipeline.stores.store import Stat


def test_a_folder(tmp_path):
    store = FolderStore(tmp_path)
    store.put("deeper/one", b"12345")
    store.put("some", b"abcdef")
    assert store.read("some", 1, 3) == b"bc" and store.read("some", 4) == b"ef" and store.read("some") == b"abcdef"
    assert store.read_whole("some", 6) == b"abcdef" and store.stat("some") == Stat(6)
    assert dict(store.list()) == {"some": Stat(6), "deeper/one": Stat(5)} and dict(store.list("deeper")).keys() == {
        "deeper/one"
    }
    assert store.stats(["some", "none", "some/none", "deeper"]) == {"some": Stat(6)}
    assert store.place("some") == tmp_path / "some" and not store.is_changed("some") and not store.is_remote
    with pytest.raises(OSError, match="ends after 2 of 3 bytes"):
        store.read("some", 4, 7)
    with pytest.raises(FileNotFoundError):
        store.read("none")
    with pytest.raises(ForeignJsonError, match="over 5 bytes"):
        store.read_whole("some", 5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        store.read("pipe", 0, 1)
