"""Twenty runs, on every engine in turn, killed at a random moment and started again: nothing shows afterwards.

`make test` takes five of them, every engine and all moments among them; `make test-thorough` the others.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from kill_drill import ENGINES, drill, straight

pytestmark = pytest.mark.slow
CHOSEN = (0, 6, 8, 9, 12)


@pytest.fixture(scope="module")
def expected(start_ranks, digits, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("straight")
    return {engine: straight(start_ranks, digits, folder, engine) for engine in ENGINES}


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[] if seed in CHOSEN else [pytest.mark.thorough]) for seed in range(20)]
)
def test_a_killed_run_goes_on_exactly(seed, expected, start_ranks, digits, tmp_path):
    engine = ENGINES[seed % len(ENGINES)]
    drill(start_ranks, digits, tmp_path, engine, seed, expected[engine])
