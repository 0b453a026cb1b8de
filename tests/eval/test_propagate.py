"""Propagation from shards to results: baselines beside it, on any number of ranks, and once."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_squares import FRAMES, draw_square, pack_squares

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.video_names import video_names
from eyespot.eval.propagate import judge_propagation
from eyespot.eval.protocols.propagation.region_boundary import region
from eyespot.eval.results.compare import paired_differences
from eyespot.eval.results.result import Result, results_in
from eyespot.pretrain.distributed.process_group import World

ONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return pack_squares(tmp_path_factory.mktemp("shards") / "squares").path


def judged(squares: Path, out: Path, world: World = ONE, **changes) -> list[Result]:
    known = {"out": out, "seed": 0, "pretrained": False, "image_size": 48} | changes
    return judge_propagation("test_resnet", squares, world=world, **known)


def test_results_beside_their_baselines(squares, tmp_path):
    results = judged(squares, tmp_path)
    assert [(result.name, result.role) for result in results] == [
        ("random weights (seed 0)", "random"),
        ("Lab colours of 8 x 8 pixels", "pixels"),
        ("first mask, not moved", "pixels"),
    ]
    random, colors, unmoved = results
    masks = [[draw_square(number, frame)[1] == 1 for frame in (0, 1, 2, 4, 5, 6, 7)] for number in range(3)]
    expected = np.mean([[region(video[0], mask) for mask in video[1:]] for video in masks])
    assert unmoved.scores["J"].value == pytest.approx(expected)
    assert colors.accuracy > unmoved.accuracy and colors.scores["J"].value > 0.6, "a square of one colour is followed"
    for result in results:
        assert (result.share, result.num_test, result.data) == ("J&F", 3, "squares at 48 px")
        assert result.accuracy == pytest.approx((result.scores["J"].value + result.scores["F"].value) / 2)
        low, high = result.interval
        assert low <= result.accuracy <= high and len(result.scores["video J&F"].values) == 3
    assert random.settings == {"stride": "8", "size": "48"} and not unmoved.settings
    assert len(list((tmp_path / "propagated").glob("*_00.png"))) == 3
    assert len(paired_differences(colors, [random, unmoved])) == 2


def test_a_result_is_computed_once_and_anew_where_something_changed(squares, tmp_path):
    first, again = judged(squares, tmp_path), judged(squares, tmp_path)
    assert [result.created for result in first] == [result.created for result in again] and first == again
    keys = [
        {result.key for result in judged(squares, tmp_path, **change)} for change in ({"seed": 1}, {"image_size": 40})
    ]
    known = {result.key for result in first}
    assert len(keys[0] & known) == 2 and not keys[1] & known


def test_any_number_of_ranks_gives_the_same(squares, tmp_path, on_ranks):
    alone = judged(squares, tmp_path / "one")
    first, second = on_ranks(judged_on_a_rank, 2, squares, tmp_path / "two")
    assert second == [] and [numbers(result) for result in first] == [numbers(result) for result in alone]


def test_videos_without_an_object_are_left_out_counted_and_named(tmp_path, caplog):
    some = pack_squares(tmp_path / "some", empty=[1]).path
    results = judged(some, tmp_path / "some results")
    assert [result.num_test for result in results] == [2, 2, 2]
    (said,) = [record.message for record in caplog.records if "left out" in record.message]
    named = re.search(r"first masks of 1 of 3 videos show no object .* these are left out: (\d)$", said)
    assert {result.split for result in results} == {
        f"all videos of the folder, without 1 whose first mask shows no object: {named[1]}"
    }
    every = pack_squares(tmp_path / "every", empty=[0, 1, 2]).path
    with pytest.raises(UserError, match=r"3 of 3 videos show no object .*: 0, 1, 2; where 255 is the object"):
        judged(every, tmp_path / "no results")
    assert not (tmp_path / "no results").exists()


@pytest.mark.thorough
def test_any_number_of_ranks_leaves_out_the_same(tmp_path, on_ranks):
    squares = pack_squares(tmp_path / "squares", empty=[0, 2]).path
    alone = judged(squares, tmp_path / "one")
    first, second = on_ranks(judged_on_a_rank, 2, squares, tmp_path / "two")
    assert second == [] and [numbers(result) for result in first] == [numbers(result) for result in alone]


def judged_on_a_rank(world: World, squares: Path, out: Path) -> list[Result]:
    return judged(squares, out, world)


def numbers(result: Result) -> Result:
    return replace(result, seconds=0.0, created="", argv=[])


def test_images_are_no_videos(digits, tmp_path):
    with pytest.raises(UserError, match="have no masks of frames"):
        judged(digits, tmp_path)
    assert results_in(tmp_path) == []


def points_file(shards: ShardFolder, path: Path) -> Path:
    """The four corners of each square, by what its video was called."""
    said = {}
    for name in video_names(shards):
        corners = []
        for frame in range(FRAMES):
            rows, columns = np.nonzero(draw_square(int(name.removeprefix("square ")), frame)[1])
            low, high = (columns.min() + 2, rows.min() + 2), (columns.max() - 1, rows.max() - 1)
            corners.append([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])])
        said[name] = [[list(map(float, corner)) for corner in frame] for frame in corners]
    path.write_text(json.dumps(said))
    return path


def test_key_points_are_carried_beside_the_same_baselines(squares, tmp_path):
    file = points_file(ShardFolder(squares), tmp_path / "points.json")
    random, colors, unmoved = judged(squares, tmp_path / "out", keypoints=file)
    assert unmoved.name == "first points, not moved"
    for result in (random, colors, unmoved):
        assert (result.protocol, result.share, result.num_test) == ("propagate-points", "PCK@0.1", 3)
        assert result.accuracy <= result.scores["PCK@0.2"].value and result.interval[0] <= result.accuracy
        assert result.metrics["propagate-points/PCK@0.1"] == result.accuracy and result.metric in result.metrics
    body = 0.6 * math.hypot(13, 13)  # a square that goes three pixels a frame: out of reach after the first steps
    assert unmoved.accuracy == pytest.approx(np.mean([3 * frame <= 0.1 * body for frame in range(1, FRAMES)]))
    assert unmoved.scores["PCK@0.2"].value == pytest.approx(np.mean([3 * n <= 0.2 * body for n in range(1, FRAMES)]))
    assert len(list((tmp_path / "out" / "propagated-points").glob("*_00.png"))) == 3
    assert len(paired_differences(colors, [random, unmoved])) == 2
    again = judged(squares, tmp_path / "out", keypoints=file)
    assert [result.created for result in again] == [random.created, colors.created, unmoved.created]
    assert {result.protocol for result in judged(squares, tmp_path / "out")} == {"propagate"}


@pytest.mark.thorough
@pytest.mark.thorough
def test_any_number_of_ranks_carries_the_same_points(squares, tmp_path, on_ranks):
    file = points_file(ShardFolder(squares), tmp_path / "points.json")
    alone = judged(squares, tmp_path / "one", keypoints=file)
    first, second = on_ranks(points_on_a_rank, 2, squares, tmp_path / "two", file)
    assert second == [] and [numbers(result) for result in first] == [numbers(result) for result in alone]


def points_on_a_rank(world: World, squares: Path, out: Path, file: Path) -> list[Result]:
    return judged(squares, out, world, keypoints=file)
