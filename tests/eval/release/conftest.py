"""Two releases of the same architecture and different weights, for all tests of this folder: to copy, not to change."""

from pathlib import Path

import pytest
from released_runs import write_release


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("releases") / "first")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("releases") / "second", seed=2)
