"""Files of key points: what is taken from them, what counts, and what is refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from moving_squares import FRAMES, pack_squares

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.video_names import video_names
from eyespot.eval.protocols.propagation.key_points import BODY, PointedVideos, bodies, carried, counted


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> ShardFolder:
    return pack_squares(tmp_path_factory.mktemp("shards") / "squares", masks=False)


def written(folder: Path, said: object) -> Path:
    path = folder / "points.json"
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    return path


def test_points_of_the_videos_that_are_named(squares, tmp_path):
    frames = [[[1.5 * frame, 2], [3, 4]] for frame in range(FRAMES)]
    frames[2], frames[3][1] = None, None
    videos = PointedVideos(squares, written(tmp_path, {"square 2": frames, "square 0": frames[:2] + frames[:7]}))
    names = video_names(squares)
    assert videos.ids == sorted([names.index("square 2"), names.index("square 0")]) and not videos.empty
    (video,) = videos.read([names.index("square 2")])
    assert video.frames[0].shape == (48, 64, 3) and video.points.shape == (FRAMES, 2, 2)
    assert video.points[4].tolist() == [[6, 2], [3, 4]] and np.isnan(video.points[2]).all()
    assert np.isnan(video.points[3, 1]).all() and video.points[3, 0].tolist() == [4.5, 2]
    other = PointedVideos(squares, written(tmp_path, {"square 2": frames}))
    assert other.digest() != videos.digest()
    assert other.digest() == PointedVideos(squares, written(tmp_path, {"square 2": frames})).digest()


def test_which_points_count():
    nan = [np.nan, np.nan]
    points = np.array(
        [[[0, 0], [64, 48], [65, 1], nan], [[3, 0], [3, 4], [1, 1], [2, 2]], [[1, 1], nan, nan, nan], [nan] * 4], float
    )
    assert carried(points, (48, 64)).tolist() == [True, True, False, False]
    assert bodies(points) == pytest.approx([BODY * np.hypot(65, 48), BODY * np.hypot(2, 4), 0, 0])
    assert counted(points, (48, 64)).tolist() == [[False] * 4, [True, True, False, False], [False] * 4, [False] * 4]


GOOD = [[[1, 2], [3, 4]]] * FRAMES


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", r"not JSON .*; it must hold \{\"VIDEO\": "),
        ("[" * 100_000, "nested too deep"),
        ([], r"expected object, got array; it must hold"),
        ({}, r"holds no videos; it must hold one or more"),
        ({"square 0": 3}, r"expected array, got int"),
        ({"square 0": [[[1, 2, 3], [3, 4]]] * FRAMES}, r"expected array of length 2"),
        ({"square 0": [[["1", 2], [3, 4]]] * FRAMES}, r"expected float.*, got str"),
        (
            {"square 9": GOOD},
            r"no video of .* is called 'square 9'; there are 'square 0', 'square 1', 'square 2', ...",
        ),
        ({"a\nb\x1b[2J" * 50: GOOD}, r"no video of .* is called 'a.*\.\.\.'"),
        ({"square 0": GOOD[1:]}, r"video 'square 0': has points of 8 frames, and the video 9; write null for none"),
        ({"square 0": [[[1, 2]]] * FRAMES}, r"has frames of 1 points; all must have as many, 2 to 1000"),
        ({"square 0": [*GOOD[1:], [[1, 2]]]}, r"has frames of 1 and 2 points"),
        ({"square 0": [None] * FRAMES}, r"has frames of no points"),
        ('{"square 0": [' + "[[NaN, 2], [3, 4]]," * 8 + "[]]}", r"has frames of 0 and 2 points"),
        ('{"square 0": [' + ",".join(["[[NaN, 2], [3, 4]]"] * 9) + "]}", r"point 0 of frame 0 is nan, 2; write pixels"),
        ('{"square 0": [' + ",".join(["[[1, 2], [3, 1e7]]"] * 9) + "]}", r"point 1 of frame 0 is 3, 1e\+07"),
        ({"square 0": [[[70, 2], None], *GOOD[1:]]}, r"shows no point in its first frame that is seen later beside"),
        (
            {"square 0": [GOOD[0]] + [[[1, 2], None]] * 8},
            r"shows no point in its first frame that is seen later beside",
        ),
    ],
)
def test_wrong_files_are_one_line(said, message, squares, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        PointedVideos(squares, written(tmp_path, said))
    text = str(caught.value)
    assert text.startswith("--keypoints ") and "\n" not in text and "\x1b" not in text and len(text) < 600


def test_files_that_are_not_there_and_images(squares, digits, tmp_path):
    with pytest.raises(UserError, match=r"^--keypoints .*: cannot be read \(No such file or directory\); name"):
        PointedVideos(squares, tmp_path / "nothing.json")
    with pytest.raises(UserError, match="have no frames, and propagate carries points through videos"):
        PointedVideos(ShardFolder(digits / "train"), written(tmp_path, {"a": GOOD}))
