"""Judges of videos from shards to results, beside random weights and raw pixels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from films import pack_films
from left_runs import leave_run, small_run

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.clips.falling_digits import open_falling_digits
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.clips import judge_clips
from eyespot.eval.protocols.clips import attentive
from eyespot.eval.results.compare import paired_differences
from eyespot.eval.results.result import Result
from eyespot.eval.results.tables import score_table
from eyespot.pretrain.distributed.process_group import World

ONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def falling(tmp_path_factory) -> Path:
    """Some of the falling digits, in train and test."""
    folder = tmp_path_factory.mktemp("shards") / "falling"
    source = open_falling_digits()
    source.splits = {split: items[: {"train": 60, "test": 20}[split]] for split, items in source.splits.items()}
    pack(lambda _: source, folder, workers=1)
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """Attentive probes of few steps."""
    monkeypatch.setattr(attentive, "LEAST_STEPS", 10)
    monkeypatch.setattr(attentive, "EPOCHS", 1)


@pytest.fixture
def judged(run_dir) -> Callable[..., list[Result]]:
    def judged(protocol, shards: Path, out: Path, **changes) -> list[Result]:
        known = {"out": out, "seed": 0, "pretrained": False, "image_size": None, "world": ONE} | changes
        return judge_clips(protocol, str(run_dir), shards, **known)

    return judged


def test_action_names_what_videos_show(judged, falling, tmp_path):
    results = judged("action", falling, tmp_path / "out", frames=3)
    assert [result.role for result in results] == ["encoder", "random", "pixels"]
    for result in results:
        assert (result.protocol, result.num_test, result.num_train, result.num_classes) == ("action", 20, 60, 10)
        assert result.settings["frames"] == "3" and result.tested == "20 test videos" and result.scores["knn"].interval
        assert result.num_correct == round(20 * result.accuracy) and result.correct
        attentive = [name for name in result.scores if name.startswith("attentive")]
        assert attentive == ["attentive", "attentive, patches"][: 1 if result.role == "pixels" else 2]
        assert all(result.scores[name].correct and name in score_table([result])[0] for name in attentive)
    assert len(paired_differences(results[0], results[1:])) == 2
    again = judged("action", falling, tmp_path / "out", frames=3)
    assert [result.created for result in again] == [result.created for result in results]
    assert {result.key for result in judged("action", falling, tmp_path / "out", frames=2)}.isdisjoint(
        {result.key for result in results}
    )
    assert len(list((tmp_path / "out").glob("action-*.json"))) == 6


@pytest.mark.thorough
def test_any_number_of_ranks_says_the_same_of_actions(run_dir, tmp_path, on_ranks):
    films = pack_films(tmp_path / "films")
    first, second = on_ranks(action_on_a_rank, 2, str(run_dir), films, tmp_path / "two")
    alone = action_on_a_rank(ONE, str(run_dir), films, tmp_path / "one")
    assert second == [] and [numbers(result) for result in first] == [numbers(result) for result in alone]


def action_on_a_rank(world: World, target: str, films: Path, out: Path) -> list[Result]:
    attentive.LEAST_STEPS, attentive.EPOCHS = 10, 1
    return judge_clips("action", target, films, out=out, seed=0, pretrained=False, world=world, frames=3)


def numbers(result: Result) -> Result:
    return replace(result, seconds=0.0, created="", argv=[])


def test_alignment_of_two_cameras_needs_no_labels(judged, falling, tmp_path):
    encoder, random, pixels = judged("alignment", falling, tmp_path / "out")
    for result in (encoder, random, pixels):
        assert (result.share, result.num_train, result.num_classes, result.num_test) == ("alignment", 0, 0, 20)
        assert result.settings["frames"] == "24" and result.settings["chance"] == 0.6672
        assert result.accuracy == pytest.approx(1 - result.scores["alignment error"].value)
        assert result.accuracy == pytest.approx(np.mean(result.graded()[1]), abs=1e-5)
        header, _ = score_table([result])
        assert header[:4] == ["", "alignment", "95% interval", "alignment error"] and "mean over videos" not in header
    assert pixels.scores["video recall@1"].value > 0.2, "by chance one in twenty"
    assert len(paired_differences(encoder, [random, pixels])) == 2


def test_alignment_by_a_runs_own_head_stands_beside_that_of_its_encoder(falling, tmp_path):
    run = small_run("tcn_tiny")
    run.data.shards = str(falling)
    target = leave_run(run, "tcn_tiny", tmp_path / "tcn", falling)
    found = judge_clips("alignment", str(target), falling, out=None, seed=0, pretrained=False, world=ONE, frames=4)
    assert [result.role for result in found] == ["encoder", "random", "pixels"]
    names = [f"own head: {name}" for name in ("alignment", "alignment error", "moment recall@1")]
    for result in found:
        assert result.metric.startswith("alignment/") and "head" not in result.metric
        assert [name for name in result.scores if "head" in name] == (names if result.role != "pixels" else [])
    encoder, random, _ = found
    own = encoder.scores[names[0]]
    assert own.value != random.scores[names[0]].value and own.value == pytest.approx(1 - encoder.scores[names[1]].value)
    header, rows = score_table(found)
    assert header[-5:-2] == names and rows[2][-5:-2] == [""] * 3
    assert own.interval[0] <= own.value <= own.interval[1]


def test_order_is_told_by_where_digits_are(judged, falling, tmp_path):
    encoder, _, pixels = judged("order", falling, tmp_path / "out", frames=4)
    assert (encoder.num_classes, encoder.num_train, encoder.num_test) == (2, 60, 20)
    assert pixels.settings["chance"] == 0.5 and pixels.accuracy > 0.6, "digits begin at the top"


def test_a_folder_without_parts_is_divided(judged, tmp_path):
    films = pack_films(tmp_path / "films")
    for protocol, counts in (("action", (20, 4)), ("order", (20, 4))):
        results = judged(protocol, films, tmp_path / "out")
        assert {(result.num_train, result.num_test) for result in results} == {counts}
        assert all("no test split: 20%" in result.split for result in results)


@pytest.mark.parametrize("protocol", ["action", "alignment", "order"])
def test_images_are_no_videos(judged, protocol, digits, tmp_path):
    with pytest.raises(
        UserError, match=r"^shards .*: have no frames; pack videos, or folders of their frames: [^\n]*$"
    ):
        judged(protocol, digits, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("protocol", "frames", "message"),
    [
        ("alignment", 25, r"^--frames 25: alignment wants 4 or more, and the shortest video has 24; choose 4 to 24$"),
        ("alignment", 3, r"^--frames 3: alignment wants 4 or more"),
        ("order", 1, r"^--frames 1: one frame has no direction; set it to 2 or more$"),
    ],
)
def test_wrong_numbers_of_frames(judged, protocol, frames, message, falling, tmp_path):
    with pytest.raises(UserError, match=message):
        judged(protocol, falling, tmp_path / "out", frames=frames)


def test_one_camera_has_nothing_to_be_aligned_with(judged, tmp_path):
    films = pack_films(tmp_path / "films", count=12, streams=("",))
    with pytest.raises(UserError, match="have one camera"):
        judged("alignment", ShardFolder(films).path, tmp_path)
