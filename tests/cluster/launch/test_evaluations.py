"""What follows a run, and what is found wrong with it before the run is submitted."""

import shutil
from pathlib import Path

import pytest
from captioned import pack_named_digits

from eyespot.cluster.launch.evaluations import evaluations
from eyespot.cluster.launch.submission import Submission
from eyespot.cluster.launch.submit import check
from eyespot.cluster.launch.sweep import SweepMember, single
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack


@pytest.fixture
def member(digits, tmp_path) -> SweepMember:
    words = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "runs" / "one"), "--data.batch-size", "16"]
    return single(["pretrain", "mae_tiny", *words])


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (("train",), "then 'train': only eval can follow; write: --then eval linear knn"),
        (("eval", "/a", "/b"), "then 'b': neither a protocol (linear, knn"),
        (("eval", "/absent"), "correspondence); and no folder: shards /absent: no such folder"),
        (("eval", "nope"), "then eval 'nope': not a protocol (linear, knn"),
        (("eval", "low-shot"), "then eval low-shot: cannot say how many shots"),
        (("eval", "propagate-points"), "then eval propagate-points: cannot say where the points are"),
        (("eval", "propagate"), "has no videos with masks of their frames"),
        (("eval", "captions"), "then eval captions: MAE has not what it asks; it judges runs that foretell captions"),
        (("eval", "own-head"), "then eval own-head: MAE has not what it asks; it judges runs whose head answers"),
        (("eval", "zero-shot"), "then eval zero-shot: MAE has not what it asks; it judges runs with towers of images"),
        (("eval", "joint-retrieval"), "then eval joint-retrieval: MAE has not what it asks; it judges runs with two"),
        (("eval", "alignment"), "have no frames; pack videos"),
        (("eval", "dense-knn"), "has no masks; name shards that"),
        (("eval", "dense-depth"), "has no depth.png beside its images; name shards that have"),
    ],
)
def test_what_cannot_follow_is_one_line(member, then, message):
    with pytest.raises(UserError) as caught:
        check(Submission(then=then), member)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> dict[str, Path]:
    """Digits of one split with captions, sounds and depth; and train of the same beside a test that has none."""
    folder = tmp_path_factory.mktemp("named")
    whole = pack_named_digits(folder, 40)
    shutil.copytree(folder / "source", folder / "bare")
    for file in (each for each in (folder / "bare").rglob("*") if each.suffix in (".txt", ".wav")):
        file.unlink()
    pack(str(folder / "bare"), folder / "half" / "test", workers=1)
    shutil.copytree(whole, folder / "half" / "train")
    shutil.copytree(folder / "half" / "train", folder / "both" / "train")
    shutil.copytree(whole, folder / "both" / "test")
    return {"whole": whole, "half": folder / "half", "both": folder / "both"}


@pytest.mark.parametrize(
    ("recipe", "changes", "fits", "wrong"),
    [
        (
            "clip_tiny",
            (),
            ("zero-shot", "joint-retrieval both"),
            {"own-head": "has not what", "captions": "has not what"},
        ),
        (
            "virtex_tiny",
            (),
            ("captions both",),
            {"captions whole": "name a folder that has both", "zero-shot": "has not"},
        ),
        ("virtex_tiny", (), (), {"captions half": "have no captions"}),
        ("clip_tiny", (), (), {"correspondence half": r"have no \.txt beside their images"}),
        (
            "audio_visual_tiny",
            ("--objective.form", "distance"),
            ("own-head", "correspondence"),
            {"zero-shot": "of images"},
        ),
        ("audio_visual_tiny", (), ("joint-retrieval",), {"own-head": "has not", "joint-retrieval half": "no sounds"}),
        ("audio_visual_tiny", ("--objective.form", "correspondence"), ("own-head",), {"own-head half": "no sounds"}),
        ("audio_visual_tiny", ("--objective.form", "correspondence"), (), {"correspondence": "has not what it asks"}),
    ],
)
def test_what_a_run_is_asked_it_can_answer(named, tmp_path, recipe, changes, fits, wrong):
    words = ["--data.shards", str(named["whole"]), "--run-dir", str(tmp_path / "one"), "--data.batch-size", "16"]
    member = single(["pretrain", recipe, *words, *changes])

    def then(asked: str) -> Submission:
        protocol, _, where = asked.partition(" ")
        return Submission(then=("eval", protocol, *([str(named[where])] if where else [])))

    for asked in fits:
        check(then(asked), member)
    for asked, message in wrong.items():
        with pytest.raises(UserError, match=rf"^then eval {asked.split()[0]}: .*{message}"):
            check(then(asked), member)


def test_evaluations_are_of_the_runs_shards_or_of_others(member, digits):
    run_dir = str(member.run.run_dir)
    both = [("eval", "linear", run_dir, str(digits)), ("eval", "knn", run_dir, str(digits))]
    assert evaluations(Submission(then=("eval",)), member) == both
    assert evaluations(Submission(then=("eval", "knn", "linear")), member) == both[::-1]
    member.run.data.shards = str(digits / "train")
    assert evaluations(Submission(then=("eval", "linear", str(digits))), member) == both[:1]
    assert evaluations(Submission(), member) == []
