"""Twenty runs, on every engine in turn, killed at a random moment and started again: nothing shows afterwards."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from kill_drill import ENGINES, drill, straight

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def expected(start_ranks, digits, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("straight")
    return {engine: straight(start_ranks, digits, folder, engine) for engine in ENGINES}


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_run_goes_on_exactly(seed, expected, start_ranks, digits, tmp_path):
    engine = ENGINES[seed % len(ENGINES)]
    drill(start_ranks, digits, tmp_path, engine, seed, expected[engine])
