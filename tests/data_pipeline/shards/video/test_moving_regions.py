import builtins
import io

import numpy as np
import pytest
from moving_pictures import wandering
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.shards.video.moving_regions import (
    MOVES,
    RESTS,
    UNCERTAIN,
    MotionFinder,
    check_installed,
    gray,
)


def iou(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("pan", [0.0, 2.0])
def test_what_moves_against_the_camera_is_found(pan):
    frames, places = wandering(3, pan=pan)
    finder = MotionFinder()
    own = finder.own_motion(finder.flow(frames[1], frames[2]))
    assert np.median(np.linalg.norm(own[~places[1]], axis=-1)) < 0.3
    expected = np.median(own[places[1]], 0)
    assert np.allclose(expected, [3 + pan, 1.5], atol=0.5)
    mask = finder.mask(finder.remainder(frames[1], [frames[0], frames[2]]))
    certain = mask != UNCERTAIN
    assert set(np.unique(mask)) <= {MOVES, RESTS, UNCERTAIN} and certain.mean() > 0.85
    both = iou((mask == MOVES)[certain], places[1][certain])
    one = finder.mask(finder.remainder(frames[1], [frames[2]]))
    assert both > 0.75 and both > iou((one == MOVES)[certain], places[1][certain]) - 0.02


def test_where_nothing_moves_nothing_is_certain():
    frames, _ = wandering(2)
    finder = MotionFinder()
    assert (finder.mask(finder.remainder(frames[0], [frames[0]])) == UNCERTAIN).all()
    assert (finder.mask(np.zeros((4, 5), np.float32)) == UNCERTAIN).all()


def test_frames_too_small_for_a_homography_are_taken_as_they_are():
    flow, finder = np.ones((20, 20, 2), np.float32), MotionFinder()
    assert np.array_equal(finder.own_motion(flow), flow)
    for side in (1, 15, 16, 17):
        frame = np.random.default_rng(0).integers(0, 255, (side, side + 3)).astype(np.uint8)
        assert finder.flow(frame, frame[:, ::-1].copy()).shape == (side, side + 3, 2)


def test_gray_shrinks_large_frames_only():
    def stored(width: int, height: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (width, height), (10, 200, 30)).save(file, "PNG")
        return file.getvalue()

    assert gray(stored(640, 480)).shape == (240, 320) and gray(stored(60, 40)).shape == (40, 60)


def test_without_opencv_one_line_says_what_to_install(monkeypatch):
    check_installed()
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"OpenCV.*pip install 'eyespot\[video\]'"):
        check_installed()


def test_a_damaged_frame_is_one_line():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(stream, "PNG")
    for data in (b"", b"text", stream.getvalue()[:40]):
        with pytest.raises(BadImage, match="no whole image"):
            gray(data)
