"""benchmarks/zoo.py: its short trainings can be had as they are written, the table is of them, the gate is one."""

import json
import sys
from pathlib import Path

import pytest

from eyespot.cluster.method_cards import MEASURED
from eyespot.cluster.start_run import requested

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import zoo
from zoo import GATES, passed

ROWS = json.loads((zoo.RESULTS / "zoo.json").read_text())["methods"]


@pytest.mark.parametrize("method", GATES)
def test_its_training_can_be_had(method):
    recipe, run = requested(GATES[method].settings.split())
    assert recipe.startswith(f"{method}_")
    assert type(run.objective).__module__.endswith(f".{method}")
    assert run.optim.warmup_steps < run.steps
    run.objective.check_batch(run.data.batch_size)


def test_the_table_is_of_these_trainings():
    """A method may be missing from it: it is "not measured" then, for all to see."""
    for method, row in ROWS.items():
        gate = GATES[method]
        expected = (gate.settings, gate.shown_at)
        assert (row["settings"], row["shown"]) == expected, f"{method}: measured with other settings; run: make zoo"
        assert passed(row) or gate.finding, f"{method}: failed, and nothing says why"
    shown = json.loads(MEASURED.read_text())
    assert {method: card["passed"] for method, card in shown.items()} == {m: passed(row) for m, row in ROWS.items()}


@pytest.mark.parametrize(
    ("trained", "random", "expected"),
    [
        (((0.50, 0.49, 0.51),), ((0.47, 0.46, 0.48),), True),
        (((0.50, 0.49, 0.51),), ((0.485, 0.475, 0.495),), False),  # too little
        (((0.50, 0.47, 0.53),), ((0.46, 0.43, 0.49),), False),  # enough, but not beyond doubt
        (
            ((0.50, 0.49, 0.51), (0.51, 0.50, 0.52)),
            ((0.47, 0.46, 0.48), (0.50, 0.49, 0.51)),
            False,
        ),  # nor with any seed
    ],
)
def test_the_gate(trained, random, expected):
    pairs = enumerate(zip(trained, random, strict=True))
    seeds = {str(seed): {"linear_encoder": list(ours), "linear_random": list(twin)} for seed, (ours, twin) in pairs}
    assert passed({"seeds": seeds}) is expected
