"""benchmarks/video_gates.py: its trainings can be had, the table is of them, and the gate is one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from eyespot.cluster.method_cards import MEASURED_ON_VIDEOS
from eyespot.pretrain.recipe_lookup import make_run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import video_gates
from video_gates import GATES, of_shares, summary

ROWS = json.loads((video_gates.RESULTS / "video_gates.json").read_text())["methods"]


@pytest.mark.parametrize("method", GATES)
def test_its_training_can_be_had(method):
    run = make_run(f"{method}_{GATES[method].recipe}")
    assert type(run.objective).__module__.endswith(f".{method}")
    assert run.optim.warmup_steps < GATES[method].steps


def test_the_table_is_of_these_trainings():
    """A method may be missing from it: it is "not measured" then, for all to see."""
    for method, row in ROWS.items():
        assert row["settings"] == GATES[method].settings, f"{method}: run: python benchmarks/video_gates.py"
    shown = json.loads(MEASURED_ON_VIDEOS.read_text())
    assert {method: row["passed"] for method, row in shown.items()} == {m: row["passed"] for m, row in ROWS.items()}


def told(method, *seeds):
    names = ("trained", "untrained", *GATES[method].must_beat)
    draws = np.random.default_rng(0).normal(scale=0.05, size=(len(names), 40))
    videos = [
        {name: (mean + noise).tolist() for name, mean, noise in zip(names, means, draws, strict=True)}
        for means in seeds
    ]
    return {
        str(seed): {"settings": GATES[method].settings, "cpu_minutes": 1.0, "videos": each}
        for seed, each in enumerate(videos)
    }


@pytest.mark.parametrize(
    ("method", "seeds", "expected"),
    [
        ("motion_segmentation", [(0.5, 0.2, 0.3)], True),
        ("motion_segmentation", [(0.5, 0.2, 0.49)], False),  # than the box, but not beyond doubt
        ("motion_segmentation", [(0.5, 0.6, 0.3)], False),  # than the box, and not than untrained
        ("motion_segmentation", [(0.9, 0.2, 0.3), (0.28, 0.2, 0.3)], False),  # nor with any seed
        ("video_mae", [(0.2, 0.5, 0.3, 0.3)], True),  # an error: the lower, the better
        ("video_mae", [(0.3, 0.1, 0.2, 0.2)], False),
    ],
)
def test_the_gate(method, seeds, expected):
    assert summary(method, told(method, *seeds))["passed"] is expected


def test_the_gain_is_paired():
    """Videos differ far more than what two networks make of each of them."""
    level = np.linspace(0, 1, 20)
    wobble = 0.02 * (-1) ** np.arange(20)
    videos = {"trained": level + 0.05 + wobble, "untrained": level, "box in the middle": level}
    seeds = told("motion_segmentation", (0, 0, 0))
    seeds["0"]["videos"] = {name: values.tolist() for name, values in videos.items()}
    row = summary("motion_segmentation", seeds)
    mean, low, high = row["gains"]["untrained"]
    assert row["passed"] and low == pytest.approx(0.05 - 2.093 * wobble.std(ddof=1) / 20**0.5, abs=1e-4)
    assert mean == pytest.approx(0.05) and high - mean == pytest.approx(mean - low)
    assert row["answers"]["trained"][1] < row["answers"]["untrained"][2]


def test_all_right_is_not_beyond_doubt():
    mean, low, high = of_shares(np.ones(200))
    assert (mean, high) == (1, 1) and 0.97 < low < 1
