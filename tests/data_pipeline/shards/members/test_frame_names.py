"""Names of frames are read as the table at the top of the module says, and only so."""

import pytest

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import FrameFiles, Refused
from eyespot.data_pipeline.shards.members.frame_names import (
    are_frames,
    dotted,
    frame_source,
    frames_of,
    is_frame,
    stream_name,
)


@pytest.mark.parametrize(
    "how, path, expected",
    [
        ("folder", "a/b/00012.jpg", ("a/b", "00012.jpg")),
        ("folder", "b/frame_00012.PNG", ("b", "00012.PNG")),
        ("folder", "b/img7.seg.png", ("b", "7.seg.png")),
        ("folder", "b/sound.flac", ("b", "flac")),
        ("folder", "12.jpg", None),
        ("folder", "a/cover.jpg", None),
        ("folder", "a/1.txt", None),
        ("camera", "cat/v/Left/3.jpg", ("cat/v", "left.3.jpg")),
        ("camera", "v/0/3.jpg", ("v", "camera0.3.jpg")),
        ("camera", "v/3.jpg", None),
        ("camera", "v/sound.wav", ("v", "wav")),
        ("underscore", "cat/v_1_003.jpg", ("cat/v_1", "003.jpg")),
        ("underscore", "v003.jpg", None),
        ("underscore", "_003.jpg", None),
        ("underscore", "v.flac", ("v", "flac")),
    ],
)
def test_names_as_if_with_dots(how: str, path: str, expected: tuple[str, str] | None):
    assert dotted(path.split("/"), how) == expected  # type: ignore[arg-type]


def test_frames_are_sorted_by_number_and_keep_their_masks():
    found = frames_of(["10.jpg", "9.jpg", "9.seg.png", "cls", "json", "wav", "7.seg.png", "depth.1.exr"])
    assert found.streams == {"": [("9.jpg", "9.seg.png"), ("10.jpg", None)]} and found.numbers == {"": [9, 10]}
    assert found.sound == "wav" and found.problem is None and not found.is_whole
    assert found.used == {"9.jpg", "9.seg.png", "10.jpg", "wav"}
    both = frames_of(["right.0.jpg", "left.1.png", "left.0.png", "right.1.jpg"])
    assert list(both.streams) == ["left", "right"] and both.is_whole


@pytest.mark.parametrize(
    "names, problem",
    [
        (["1.jpg", "01.jpg"], "two frames have the number 1: .1.jpg, .01.jpg"),
        (["1.jpg", "left.1.jpg"], "some of its frames are of a camera (left), others are not"),
        (["1.jpg", "wav", "mp3"], "it has several sounds: .wav, .mp3"),
    ],
)
def test_what_cannot_be_one_sample(names: list[str], problem: str):
    found = frames_of(names)
    assert found.problem == problem and not found.is_whole
    places = {name: (name, Place("a.tar", 0, 1)) for name in names}
    assert frame_source(found, places, 1.0) == Refused(problem)


def test_places_of_frames():
    names = ["1.jpg", "0.jpg", "0.seg.png", "flac"]
    places = {name: (f"key.{name}", Place("a.tar", number, 1)) for number, name in enumerate(names)}
    source = frame_source(frames_of(names), places, 2.0)
    assert isinstance(source, FrameFiles) and source.rate == 2.0 and source.sound == ("flac", places["flac"][1])
    assert [(file.name, file.mask) for file in source.files[""]] == [
        ("key.0.jpg", places["0.seg.png"][1]),
        ("key.1.jpg", None),
    ]


@pytest.mark.parametrize(
    "samples, expected",
    [
        ([["000.jpg", "001.jpg"]], True),
        ([["001.jpg", "002.jpg"], ["0001.png"]], True),
        ([["left.000.jpg", "right.000.jpg", "left.001.jpg", "right.001.jpg"]], True),
        ([[f"{number:03}.jpg" for number in range(1001)]], True),
        ([["1.jpg", "2.jpg"], ["1.jpg"]], None),
        ([["000.jpg", "001.jpg"], ["00.jpg", "01.jpg"]], None),
        ([["000.jpg", "0001.jpg"]], None),
        ([["left.0.jpg", "right.0.jpg", "left.1.jpg", "right.1.jpg"]], None),
        ([["000.jpg"], ["000.jpg"]], False),
        ([["005.jpg", "006.jpg"]], False),
        ([["000.jpg", "002.jpg"]], False),
        ([["000.jpg", "001.jpg"], ["jpg"]], False),
        ([["000.jpg", "001.jpg", "depth.png"]], False),
        ([["left.000.jpg", "right.000.jpg", "left.001.jpg"]], False),
        ([], False),
    ],
)
def test_what_can_only_be_frames_and_what_only_looks_like_them(samples: list[list[str]], expected: bool | None):
    assert are_frames(samples) is bool(expected)
    assert are_frames(samples, padded=False) is (expected is not False)


def test_small_questions():
    assert is_frame("000.JPG") and is_frame("left.1.png") and not is_frame("jpg") and not is_frame("0.seg.png")
    assert (stream_name("Cam 1"), stream_name("3"), stream_name("left")) == ("cam-1", "camera3", "left")
