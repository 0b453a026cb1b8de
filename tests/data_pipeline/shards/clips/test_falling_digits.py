import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.shards.clips.falling_digits import (
    DAMPING,
    DIGIT,
    FRAMES,
    GRAVITY,
    SIDE,
    STREAMS,
    FallingDigit,
    Flight,
    open_falling_digits,
    path,
)


@pytest.fixture(scope="module")
def clips():
    return splits()


def splits() -> dict[str, list[tuple[str, int, FallingDigit]]]:
    found = open_falling_digits()
    assert found.classes == list("0123456789")
    return {split: [(item.name, item.label, item.frames) for item in items] for split, items in found.splits.items()}


def seen(clip) -> dict[str, np.ndarray]:
    """(FRAMES, SIDE, SIDE) of each camera."""
    footage = clip.read()
    return {
        name: np.stack([np.asarray(Image.open(io.BytesIO(frame)).convert("L")) for frame in frames]).astype(float)
        for name, frames in footage.frames.items()
    }


def middle(frame: np.ndarray) -> tuple[float, float]:
    """Of what is bright: x, y."""
    rows, columns = np.mgrid[: len(frame), : len(frame)]
    return float((columns * frame).sum() / frame.sum()), float((rows * frame).sum() / frame.sum())


def test_train_and_test_show_other_digits_and_are_always_the_same(clips):
    names = {split: {name for name, _, _ in found} for split, found in clips.items()}
    assert (len(names["test"]), len(names["train"])) == (200, 800) and not names["test"] & names["train"]
    assert {label for _, label, _ in clips["test"]} == set(range(10))
    assert [clip.plan for _, _, clip in splits()["train"]] == [clip.plan for _, _, clip in clips["train"]]
    assert len({clip.plan for _, _, clip in clips["train"]}) == 800


def test_it_falls_faster_and_faster_and_bounces_lower(clips):
    for _, _, clip in clips["test"][:50]:
        heights = [y for _, y in path(clip.flight)]
        speeds = [after - before for before, after in pairwise(heights)]
        landed = heights.index(SIDE - DIGIT)
        assert 0 < landed < FRAMES - 6
        assert np.allclose(np.diff(speeds[: landed - 1]), GRAVITY)
        top = min(heights[landed + 1 :])
        assert heights[0] < top < SIDE - DIGIT - 1  # it comes up again, never so high
        assert speeds[landed] == pytest.approx(-DAMPING * GRAVITY * (landed) + GRAVITY, abs=1.0)


def test_walls_turn_it_back():
    columns = [x for x, _ in path(Flight(1.0, 0.0, -1.2, 0.5, 0.7))]
    assert min(columns) == 0 and columns[-1] > 10 and all(0 <= x <= SIDE - DIGIT for x in columns)


def test_the_plain_camera_shows_the_digit_where_it_is(clips):
    for _, _, clip in clips["test"][:5]:
        frames = seen(clip)["plain"]
        digit = np.frombuffer(clip.pixels, np.uint8).reshape(8, 8).astype(float)
        x, y = middle(digit)
        for (left, top), frame in zip(path(clip.flight), frames, strict=True):
            expected = left + (x + 0.5) * DIGIT / 8 - 0.5, top + (y + 0.5) * DIGIT / 8 - 0.5
            assert np.allclose(middle(np.where(frame > 8, frame, 0)), expected, atol=0.8)


def test_the_second_camera_sees_the_same_moment_turned_smaller_and_inverted(clips):
    for _, _, clip in clips["test"][:5]:
        both = seen(clip)
        assert set(both) == set(STREAMS) and both["turned"].shape == (FRAMES, SIDE, SIDE)
        assert np.median(both["turned"]) > 250 and np.median(both["plain"]) < 5
        turn = clip.flight.angle
        for number in range(0, FRAMES, 5):
            plain, turned = both["plain"][number], 255 - both["turned"][number]
            x, y = (value - (SIDE - 1) / 2 for value in middle(np.where(plain > 8, plain, 0)))
            scale = clip.flight.scale
            expected = scale * (x * np.cos(turn) - y * np.sin(turn)), scale * (x * np.sin(turn) + y * np.cos(turn))
            found = [value - (SIDE - 1) / 2 for value in middle(np.where(turned > 8, turned, 0))]
            assert np.allclose(found, expected, atol=1.0)
