import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.clips.falling_digits import open_falling_digits
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.video.stored_clips import clip_folders, clips_of


@pytest.fixture(scope="module")
def falling(tmp_path_factory):
    """Six clips to learn from and two held out."""
    found, folder = open_falling_digits(), tmp_path_factory.mktemp("falling")
    splits = {"train": found.splits["train"][:6], "test": found.splits["test"][:2]}
    pack(lambda _: Source(name=found.name, splits=splits, classes=found.classes), folder, max_samples=4, workers=1)
    return splits, folder


def test_clips_are_found_again_as_they_were_packed(falling):
    splits, folder = falling
    folders = clip_folders(folder)
    assert list(folders) == ["train", "test"] and list(clip_folders(folder / "test")) == [""]
    for split, items in splits.items():
        packed = {(item.label, tuple(tuple(jpegs) for jpegs in item.frames.read().frames.values())) for item in items}
        clips = list(clips_of(folders[split]))
        assert [clip.name for clip in clips] == [f"falling-digits/{number:08d}" for number in range(len(items))]
        assert all(clip.rate == 24 and list(clip.streams) == ["plain", "turned"] for clip in clips)
        found = {
            (clip.label, tuple(tuple(place.read() for place in places) for places in clip.streams.values()))
            for clip in clips
        }
        assert found == packed


def test_what_are_no_clips_is_said_in_a_line(tmp_path, digit_shards):
    with pytest.raises(UserError, match="have no frames"):
        clip_folders(digit_shards)
    with pytest.raises(UserError, match="no shard folder"):
        clip_folders(tmp_path)
