"""The file of a selection: what was written comes back, and what a stranger wrote is left out with a line."""

import json
from dataclasses import asdict

import pytest

from eyespot.eval.results.checkpoint_scores import (
    NAMES,
    CheckpointScores,
    Selection,
    Verdict,
    read_selection,
    selections_in,
    table,
)
from eyespot.eval.results.result import Score


def make_selection() -> Selection:
    scores = {name: Score(value=12.345, interval=(12.0, 12.69)) for name in NAMES}
    told = [
        CheckpointScores(checkpoint="step-1", step=1, scores=scores, kept=None, alarms=["collapsed"]),
        CheckpointScores(checkpoint="step-2", step=2, scores=scores, kept=0.5),
    ]
    verdict = Verdict(taken="step-2", best="step-2", alike=["step-2"], words="it is best")
    return Selection(
        key="k", data="digits", shards="digits", split="all", num_images=64, num_views=8, checkpoints=told,
        verdicts={"rankme": verdict}, seed=0,
    )  # fmt: skip


def write(folder, selection) -> None:
    (folder / "eval" / "select").mkdir(parents=True, exist_ok=True)
    (folder / "eval" / "select" / "digits.json").write_text(json.dumps(selection))


def test_what_was_written_comes_back(tmp_path):
    write(tmp_path, asdict(make_selection()))
    (found,) = selections_in(tmp_path)
    assert found.checkpoints == make_selection().checkpoints and found.verdicts == make_selection().verdicts
    assert read_selection(tmp_path / "absent.json") is None


@pytest.mark.parametrize(
    "change", [{"format": "eyespot-select/9"}, {"checkpoints": 3}, {"verdicts": {"rankme": {"taken": 1}}}]
)
def test_what_is_damaged_is_left_out_with_a_line(change, tmp_path, caplog):
    write(tmp_path, asdict(make_selection()) | change)
    assert selections_in(tmp_path) == []
    assert "left out, no selection that this version reads" in caplog.text


def test_the_table_has_a_row_for_each_checkpoint():
    header, rows = table(make_selection())
    assert header == ["checkpoint", *NAMES.values(), "neighbours kept"]
    assert rows == [["step-1", *["12.3 ± 0.34"] * 4, ""], ["step-2", *["12.3 ± 0.34"] * 4, "50%"]]
