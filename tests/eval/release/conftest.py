"""Two releases of one architecture and different weights, and two of CLIP: for all tests, to copy, not to change."""

from pathlib import Path

import pytest
from released_runs import two_towered_run, write_release


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("releases") / "first")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("releases") / "second", seed=2)


@pytest.fixture(scope="session")
def two_towered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("releases") / "pairs"
    return write_release(out, run=two_towered_run(out.with_name("pairs-run")))


@pytest.fixture(scope="session")
def other_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("releases") / "others"
    return write_release(out, seed=2, run=two_towered_run(out.with_name("others-run")))
