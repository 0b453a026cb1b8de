"""An index of what there is, looked up once, in a cache of the tests' own."""

import pytest

from eyespot.cluster.completion.index import Index, read_index
from eyespot.cluster.completion.look_up import write_index


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """XDG_CACHE_HOME with an index in it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        write_index()
    return folder


@pytest.fixture
def index(cache, monkeypatch) -> Index:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return read_index()
