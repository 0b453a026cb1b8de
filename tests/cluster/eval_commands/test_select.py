"""``eyespot eval select``: one table, one line that says which checkpoint, and a curve on the report page."""

from pathlib import Path

import pytest
from left_runs import leave_run, small_run

from eyespot.cluster.cli import main
from eyespot.cluster.eval_commands.select import Selecting, next_steps, show
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.report.report import write_report
from eyespot.eval.results.checkpoint_scores import selections_in


def test_it_shows_the_scores_and_says_which_and_why(digits, tmp_path, capsys):
    run = small_run("mae_tiny")
    run.data.shards, run.steps = str(digits), 12
    run_dir = leave_run(run, "mae_tiny", tmp_path / "run", digits)
    assert main(["eval", "select", str(run_dir), "--images", "64", "--by", "rankme", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "RankMe" in said.out and "LiDAR" in said.out and "step-00000012" in said.out
    assert "Take step-00000012: step-00000012 has the best RankMe, in 100% of the draws." in said.out
    assert "64 images of its own test split, 8 views of each." in said.out
    assert f"eyespot eval linear {run_dir}/checkpoints/step-00000012 {digits}" in said.err
    assert "By LiDAR, which decides nothing here, step-" in said.out
    taken = ["eval", "select", str(run_dir), "--device", "cpu", "--images", "64", "--out"]
    (tmp_path / "file").touch()
    assert main([*taken, str(tmp_path / "file" / "in")]) == 2 and "--out" in capsys.readouterr().err
    (selection,) = selections_in(run_dir)
    del selection.verdicts["alpha_req"]
    with pytest.raises(UserError, match=r"^--by alpha-req: is no number for any .*; take rankme, lidar, knn$"):
        show(Selecting(run=str(run_dir), by="alpha-req"), selection)
    page = write_report([run_dir], None, look=False).read_text()
    assert "Which checkpoint" in page and selection.verdicts["lidar"].words in page


@pytest.mark.parametrize(
    ("part", "which"), [("", ""), ("@ema", "--weights ema "), ("@conv", "--student conv ")], ids=str
)
def test_what_to_do_next_is_of_the_encoder_that_was_scored(part, which, tmp_path):
    target = f"{tmp_path}{part}"
    judged, released = (" ".join(words) for words, _ in next_steps(target, "step-00000012", Path("photos")))
    assert judged == f"eval linear {tmp_path}/checkpoints/step-00000012{part} photos"
    assert released == f"release {tmp_path} --checkpoint step-00000012 {which}--license SPDX"


def test_what_it_is_not_given_is_one_line(tmp_path, capsys):
    assert main(["eval", "select", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["eval", "select", str(tmp_path), "--images", "3"]) == 2
    assert "--images 3" in capsys.readouterr().err
