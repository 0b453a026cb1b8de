import numpy as np
import pytest
from moving_pictures import wandering

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.clips.falling_digits import open_falling_digits
from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.video.track_patches import PATCH, follow, open_tracks


def share_inside(place: np.ndarray, box: tuple[float, float]) -> float:
    height, width = place.shape
    side, x, y = round(PATCH * height), round(box[0] * width), round(box[1] * height)
    return float(place[y : y + side, x : x + side].sum() / place.sum())


@pytest.mark.parametrize("pan", [0.0, -1.0])
def test_a_patch_follows_what_moves(pan):
    frames, places = wandering(24, pan=pan, speed=(3.0, 1.0))
    boxes = follow(list(frames))
    assert len(boxes) == 24
    assert share_inside(places[0], boxes[0]) > 0.9 and share_inside(places[-1], boxes[-1]) > 0.8
    assert share_inside(places[-1], boxes[0]) < 0.3  # a patch that stays would have lost it


def test_a_patch_stays_inside_of_the_frame():
    frames, _ = wandering(30, speed=(5.0, 3.0))  # it leaves the picture
    assert all(0 <= x * 160 <= 100 and 0 <= y * 120 <= 60 for x, y in follow(list(frames)))


def test_where_nothing_moves_there_is_no_track():
    frames, _ = wandering(2)
    with pytest.raises(BadImage, match="nothing moves"):
        follow([frames[0], frames[0]])
    with pytest.raises(BadImage, match="differ in size"):
        follow([frames[0], frames[0][:50]])


def test_samples_that_are_too_short_are_counted_and_never_all_of_them(tmp_path):
    found = open_falling_digits()
    items = [found.splits["train"][0], found.splits["train"][1]]
    lengths = [sum(1 for _ in next(iter(item.frames.read().frames.values()))) for item in items]
    pack(lambda _: Source(name="two", splits={"": items}, classes=found.classes), tmp_path, workers=1)
    with pytest.raises(UserError, match=rf"frames {max(lengths) + 1}: no sample of .* the longest has {max(lengths)}"):
        open_tracks(tmp_path, max(lengths) + 1)
    tracks = open_tracks(tmp_path, max(lengths))
    short = sum(length < max(lengths) for length in lengths)
    assert tracks.skipped.total == short
    assert len(tracks.splits[""]) == 2 * (2 - short)  # a track for each camera
