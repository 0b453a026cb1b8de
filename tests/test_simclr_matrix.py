"""benchmarks/simclr_matrix.py: each cell alters one branch by what it is called after, and the table is of these."""

import json
import sys
from pathlib import Path

import pytest

from eyespot.cluster.start_run import requested

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import simclr_matrix
from one_branch import WHOLE
from simclr_matrix import PAIRS, RECIPE, STEPS, flags_of, shown

FIELDS = {
    "crop": {"scale", "ratio", "flip"},
    "cutout": {"cutout"},
    "color": {"jitter", "grayscale"},
    "sobel": {"sobel"},
    "noise": {"noise"},
    "blur": {"blur"},
    "rotate": {"turn"},
}


def altered(view) -> set[str]:
    return {name for name in view.__dataclass_fields__ if getattr(view, name) != getattr(WHOLE, name)}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_cell_alters_one_branch_by_its_two_steps_and_nothing_else(pair):
    _, run = requested([RECIPE, *flags_of(pair).split()])
    assert altered(run.objective.view) == set()
    assert altered(run.objective.second) == FIELDS[pair[0]] | FIELDS[pair[1]]
    assert run.optim.warmup_steps < run.steps


def test_a_pair_is_the_same_in_either_order_and_what_was_not_trained_is_said():
    known = {"crop, color": {"encoder": [0.42, 0.41, 0.43], "random": [0.36, 0.35, 0.37]}}
    assert shown(known, "crop", "color") == shown(known, "color", "crop") == "42.0 (+6.0)"
    assert shown(known, "crop", "blur") == "not run"
    assert len(PAIRS) == len(STEPS) * (len(STEPS) + 1) // 2


def test_the_table_is_of_these_trainings():
    cells = json.loads((simclr_matrix.RESULTS / "simclr_matrix.json").read_text())["cells"]
    assert {*cells} <= {", ".join(pair) for pair in PAIRS}
    for name, cell in cells.items():
        assert cell["flags"] == flags_of(tuple(name.split(", "))), f"{name}: was trained with other settings"
