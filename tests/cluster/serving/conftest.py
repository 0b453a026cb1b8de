"""A release that all tests of the server share."""

from pathlib import Path

import pytest
from released_runs import write_release


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("served") / "digits")
