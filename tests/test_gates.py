"""The gates of benchmarks: their trainings can be had, the tables are of them, and a gate is one."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from eyespot.pretrain.checkpoints.folders import folder_of
from eyespot.pretrain.recipe_lookup import make_run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gates
from gates import method_of, of_shares
from member_gates import MEMBER_GATES
from video_gates import VIDEO_GATES

KINDS = (VIDEO_GATES, MEMBER_GATES)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in kind.gates])
def test_its_training_can_be_had(kind, name):
    gate = kind.gates[name]
    run = make_run(f"{method_of(name)}_{gate.recipe}")
    assert type(run.objective).__module__.endswith(f".{method_of(name)}")
    assert run.optim.warmup_steps < gate.steps


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_table_is_of_these_trainings(kind):
    """A method may be missing from it: it is "not measured" then, for all to see."""
    rows = json.loads((gates.RESULTS / f"{kind.name}.json").read_text())["methods"]
    assert kind.known() == rows, f"run: python benchmarks/{kind.name}.py"
    shown = json.loads(kind.shown_in.read_text())
    assert {method: row["passed"] for method, row in shown.items()} == {
        name: row["passed"] for name, row in rows.items() if name == method_of(name)
    }


def test_rows_of_other_trainings_are_forgotten(monkeypatch, tmp_path):
    gate = VIDEO_GATES.gates["tcn"]
    row = {"settings": gate.settings, "asked": gate.asked}
    rows = {"tcn": row, "video_mae": row, "gone": row}
    (tmp_path / "video_gates.json").write_text(json.dumps({"methods": rows}))
    monkeypatch.setattr(gates, "RESULTS", tmp_path)
    assert [*VIDEO_GATES.known()] == ["tcn"]
    rows["tcn"]["asked"] = "something else"
    (tmp_path / "video_gates.json").write_text(json.dumps({"methods": rows}))
    assert [*VIDEO_GATES.known()] == []


def test_a_training_is_known_by_what_decides_it(monkeypatch, tmp_path):
    """Other shards, recipe or flags are another folder; what is done is not started again, and what it took stays."""
    started = []

    def train(*words: str) -> float:
        started.append(words)
        Path(words[words.index("--run-dir") + 1]).mkdir(parents=True)
        return 60.0

    monkeypatch.setattr(gates, "eyespot", train)
    digests = {"digits": "a"}
    monkeypatch.setattr(gates.ShardFolder, "find", lambda path, *_: Told(manifest_sha256=digests[path.name]))
    gate = replace(MEMBER_GATES.gates["clip"], learned=(("digits", "digits"),))
    kind = replace(MEMBER_GATES, gates={"clip": gate})
    folder, seconds = kind.trained("clip", gate.learned[0], 0, tmp_path)
    assert seconds == 60 and len(started) == 1
    last = folder_of(folder, gate.steps)
    last.mkdir(parents=True)
    (last / "meta.json").touch()
    assert kind.trained("clip", gate.learned[0], 0, tmp_path) == (folder, 60) and len(started) == 1
    others = {kind.trained("clip", gate.learned[0], 1, tmp_path)[0]}
    for changes in ({"changes": "--optim.lr 1"}, {"recipe": "small"}, {"steps": 1}):
        changed = replace(MEMBER_GATES, gates={"clip": replace(gate, **changes)})
        others.add(changed.trained("clip", gate.learned[0], 0, tmp_path)[0])
    digests["digits"] = "b"
    others.add(kind.trained("clip", gate.learned[0], 0, tmp_path)[0])
    assert len(others - {folder}) == 5


@dataclass
class Told:
    """What a gate reads of shards here."""

    manifest_sha256: str


def told(method, *seeds):
    names = ("trained", "untrained", *VIDEO_GATES.gates[method].must_beat)
    draws = np.random.default_rng(0).normal(scale=0.05, size=(len(names), 40))
    videos = [
        {name: (mean + noise).tolist() for name, mean, noise in zip(names, means, draws, strict=True)}
        for means in seeds
    ]
    return {
        str(seed): {"settings": VIDEO_GATES.gates[method].settings, "cpu_minutes": 1.0, "samples": each}
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
    assert VIDEO_GATES.summary(method, told(method, *seeds))["passed"] is expected


def test_the_gain_is_paired():
    """Videos differ far more than what two networks make of each of them."""
    level = np.linspace(0, 1, 20)
    wobble = 0.02 * (-1) ** np.arange(20)
    videos = {"trained": level + 0.05 + wobble, "untrained": level, "box in the middle": level}
    seeds = told("motion_segmentation", (0, 0, 0))
    seeds["0"]["samples"] = {name: values.tolist() for name, values in videos.items()}
    row = VIDEO_GATES.summary("motion_segmentation", seeds)
    mean, low, high = row["gains"]["untrained"]
    assert row["passed"] and low == pytest.approx(0.05 - 2.093 * wobble.std(ddof=1) / 20**0.5, abs=1e-4)
    assert mean == pytest.approx(0.05) and high - mean == pytest.approx(mean - low)
    assert row["answers"]["trained"][1] < row["answers"]["untrained"][2]


def test_all_right_is_not_beyond_doubt():
    mean, low, high = of_shares(np.ones(200))
    assert (mean, high) == (1, 1) and 0.97 < low < 1
