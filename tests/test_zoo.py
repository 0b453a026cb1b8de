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


def test_minutes_that_nobody_counted_are_not_made_up():
    assert zoo.minutes_of({"seeds": {"0": {"cpu_minutes": 2.0}, "1": {"cpu_minutes": 4.0}}}) == "3.0"
    assert zoo.minutes_of({"seeds": {"0": {"cpu_minutes": 2.0}, "1": {"cpu_minutes": None}}}) == "not measured"


def test_a_training_that_was_broken_off_has_not_been_counted(monkeypatch, tmp_path):
    """What a command that did not come to its end has used is lost; what one that did has left is added to."""
    monkeypatch.setattr(zoo, "eyespot", lambda *words: 60.0)
    for left, expected in (((), 1.0), (("checkpoints",), None), (("checkpoints", "cpu_seconds.txt"), 2.0)):
        run_dir = tmp_path / f"run-{len(left)}"
        (run_dir / "eval").mkdir(parents=True)
        for name in left:
            (run_dir / name).mkdir() if name == "checkpoints" else (run_dir / name).write_text("60.0\n")
        for role in ("encoder", "random"):
            for protocol in ("linear", "knn"):
                result = {"role": role, "created": "2026", "accuracy": 0.5, "interval": [0.4, 0.6]}
                (run_dir / "eval" / f"{protocol}_{role}.json").write_text(json.dumps(result))
        assert zoo.measure("simclr", 0, tmp_path, run_dir)["cpu_minutes"] == expected
        again = zoo.measure("simclr", 0, tmp_path, run_dir)["cpu_minutes"]
        assert again == (None if expected is None else expected + 1)
