import io

import numpy as np
import pytest
from moving_pictures import wandering
from PIL import Image

from eyespot.data_pipeline.shards.image_check import encode_png
from eyespot.data_pipeline.shards.video.motion_masks import masks
from eyespot.data_pipeline.shards.video.moving_regions import MOVES, UNCERTAIN, MotionFinder


def pngs(frames: np.ndarray) -> list[bytes]:
    return [encode_png(frame.tobytes(), frame.shape) for frame in frames]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize(("rate", "gap"), [(0.0, 1), (8.0, 1), (24.0, 1), (60.0, 2), (75.0, 3)])
def test_each_frame_is_compared_with_those_a_24th_of_a_second_away(rate, gap):
    frames, _ = wandering(8, speed=(1.0, 0.5), pan=0.5)
    finder = MotionFinder()
    found = list(masks(pngs(frames), rate))
    for number, png in enumerate(found):
        others = [frames[near] for near in (number - gap, number + gap) if 0 <= near < 8]
        assert np.array_equal(pixels(png), finder.mask(finder.remainder(frames[number], others)))
    assert len(found) == 8


def test_what_moves_is_marked_in_frames_of_any_size():
    frames, places = wandering(4)
    large = [np.asarray(Image.fromarray(frame).resize((640, 480))) for frame in frames]
    for png, place in zip(masks(pngs(large), 24.0), places, strict=True):
        mask, true = pixels(png), np.asarray(Image.fromarray(place).resize((640, 480)))
        assert mask.shape == (480, 640)
        both = ((mask == MOVES) & true).sum() / ((mask == MOVES) | true).sum()
        assert both > 0.6


def test_a_single_frame_says_nothing():
    frames, _ = wandering(1)
    (png,) = masks(pngs(frames), 24.0)
    assert (pixels(png) == UNCERTAIN).all()
