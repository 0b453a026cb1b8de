"""An index of what there is, looked up once, in a cache of the tests' own."""

import contextlib
import io

import pytest

from eyespot.cluster.cli import main
from eyespot.cluster.completion.index import Index, read_index


@pytest.fixture(scope="session")
def first_call(tmp_path_factory):
    """XDG_CACHE_HOME, which was empty, and what the command said that made an index there."""
    folder, out, err = tmp_path_factory.mktemp("cache"), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert main(["completion", "bash"]) == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def cache(first_call):
    """XDG_CACHE_HOME with an index in it."""
    return first_call[0]


@pytest.fixture
def index(cache, monkeypatch) -> Index:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return read_index()
