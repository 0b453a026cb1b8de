"""What follows a run, and what is found wrong with it before the run is submitted."""

import pytest

from eyespot.cluster.launch.evaluations import evaluations
from eyespot.cluster.launch.submission import Submission
from eyespot.cluster.launch.submit import check
from eyespot.cluster.launch.sweep import SweepMember, single
from eyespot.data_pipeline.errors import UserError


@pytest.fixture
def member(digits, tmp_path) -> SweepMember:
    words = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "runs" / "one"), "--data.batch-size", "16"]
    return single(["pretrain", "mae_tiny", *words])


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (("train",), "then 'train': only eval can follow; write: --then eval linear knn"),
        (("eval", "/a", "/b"), "then 'b': neither a protocol (linear, knn"),
        (("eval", "/absent"), "shards /absent: no such folder"),
        (("eval", "low-shot"), "then eval low-shot: cannot say how many shots"),
        (("eval", "propagate-points"), "then eval propagate-points: cannot say where the points are"),
        (("eval", "propagate"), "has no videos with masks of their frames"),
        (("eval", "captions"), "has no txt beside its images; name shards that have"),
        (("eval", "joint-retrieval"), "has no depth.png or flac or ogg or txt or wav beside its images"),
        (("eval", "alignment"), "have no frames; pack videos"),
        (("eval", "dense-knn"), "has no masks; name shards that"),
        (("eval", "dense-depth"), "has no depth.png beside its images; name shards that have"),
    ],
)
def test_what_cannot_follow_is_one_line(member, then, message):
    with pytest.raises(UserError) as caught:
        check(Submission(then=then), member)
    assert message in str(caught.value)


def test_evaluations_are_of_the_runs_shards_or_of_others(member, digits):
    run_dir = str(member.run.run_dir)
    both = [("eval", "linear", run_dir, str(digits)), ("eval", "knn", run_dir, str(digits))]
    assert evaluations(Submission(then=("eval",)), member) == both
    assert evaluations(Submission(then=("eval", "knn", "linear")), member) == both[::-1]
    member.run.data.shards = digits / "train"
    assert evaluations(Submission(then=("eval", "linear", str(digits))), member) == both[:1]
    assert evaluations(Submission(), member) == []
