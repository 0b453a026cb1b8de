"""Propagation from shards to results: baselines beside it, on any number of ranks, and once."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_squares import draw_square, pack_squares

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.propagate import Carrier, answers_of, carriers_of, judge_propagation
from eyespot.eval.protocols.masked_videos import MaskedVideos
from eyespot.eval.protocols.region_boundary import region
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


@pytest.mark.slow
def test_any_number_of_ranks_leaves_out_the_same(tmp_path, on_ranks):
    squares = pack_squares(tmp_path / "squares", empty=[0, 2]).path
    alone = judged(squares, tmp_path / "one")
    first, second = on_ranks(judged_on_a_rank, 2, squares, tmp_path / "two")
    assert second == [] and [numbers(result) for result in first] == [numbers(result) for result in alone]


def judged_on_a_rank(world: World, squares: Path, out: Path) -> list[Result]:
    return judged(squares, out, world)


def numbers(result: Result) -> Result:
    return replace(result, seconds=0.0, created="", argv=[])


def test_a_vision_transformer_sees_whole_frames(squares):
    subjects = subjects_of("test_vit3", seed=0, pretrained=False)
    videos = MaskedVideos(ShardFolder(squares))
    (video,) = videos.read([0])
    encoder = carriers_of(subjects, 48, torch.device("cpu"))[0]
    assert encoder.shown(video.frames[0]) == (48, 64) and encoder.stride == 16
    with torch.inference_mode():
        answers = answers_of(encoder, video, torch.device("cpu"))
    assert len(answers) == len(video.frames) and {answer.shape for answer in answers} == {(48, 64)}
    assert set(np.unique(answers)) == {0, 1} and np.array_equal(answers[0], video.masks[0])


def test_it_does_not_matter_which_numbers_objects_have(squares):
    (carrier, *_) = carriers_of(subjects_of("test_resnet", seed=0, pretrained=False), 48, torch.device("cpu"))
    (video,) = MaskedVideos(ShardFolder(squares)).read([0])
    video.masks[0] = np.where(np.arange(64) < 8, 254, video.masks[0]).astype(np.uint8)

    def answers(number: int, ignored: int) -> list[np.ndarray]:
        renamed = np.array([0, number, *range(2, 254), ignored, 0], np.uint8)
        other = replace(video, masks={0: renamed[video.masks[0]]}, ignored=ignored)
        with torch.inference_mode():
            return [answer == number for answer in answers_of(carrier, other, torch.device("cpu"))]

    first = answers(1, 255)
    for number, ignored in ((255, 254), (200, 3)):
        assert all(map(np.array_equal, first, answers(number, ignored)))
    assert first[5].any() and not first[5].all()


@pytest.mark.parametrize(
    ("size", "stride", "frame", "shown"),
    [
        (480, 16, (480, 854), (480, 832)),  # DINO's
        (476, 14, (480, 854), (476, 840)),
        (96, 8, (240, 427), (96, 168)),
        (96, 8, (427, 240), (168, 96)),
        (96, 8, (240, 240), (96, 96)),
    ],
)
def test_how_large_frames_are_shown(size, stride, frame, shown):
    subject = subjects_of("test_resnet", seed=0, pretrained=False)[0]
    carrier = Carrier(subject=subject, maps=None, stride=stride, size=size)
    assert carrier.shown(np.zeros((*frame, 3), np.uint8)) == shown


def test_an_encoder_of_one_size_is_refused():
    with pytest.raises(UserError, match="propagate shows whole frames, which are no squares") as caught:
        carriers_of(subjects_of("swin_tiny_patch4_window7_224", seed=0, pretrained=False), None, torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"image-size 50: is no multiple of .* 8 pixels; try 48 or 56$"):
        carriers_of(subjects_of("test_resnet", seed=0, pretrained=False), 50, torch.device("cpu"))


def test_images_are_no_videos(digits, tmp_path):
    with pytest.raises(UserError, match="have no masks of frames"):
        judged(digits, tmp_path)
    assert results_in(tmp_path) == []
