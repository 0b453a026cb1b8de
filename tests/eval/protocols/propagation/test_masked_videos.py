"""Videos with masks come out of clip shards as they were packed."""

import numpy as np
import pytest
from moving_squares import FRAMES, draw_square, pack_squares

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols.propagation.masked_videos import MaskedVideo, MaskedVideos


def test_every_frame_and_every_mask(tmp_path):
    videos = MaskedVideos(pack_squares(tmp_path / "squares"))
    assert videos.ids == [0, 1, 2] and videos.ignored == 255
    for sample, video in zip((2, 0), videos.read([2, 0]), strict=True):
        drawn = [draw_square(number, 0)[0] for number in range(3)]
        number = min(range(3), key=lambda each: np.abs(video.frames[0] - drawn[each].astype(int)).mean())
        assert video.sample == sample and len(video.frames) == FRAMES and sorted(video.masks) == [0, 1, 2, 4, 5, 6, 7]
        for frame, mask in video.masks.items():
            assert np.array_equal(mask, draw_square(number, frame)[1])
        assert np.abs(video.frames[5].astype(int) - draw_square(number, 5)[0]).mean() < 12
        assert video.objects == [1] and video.counted() == [1, 2, 4, 5, 6, 7]


def test_a_video_whose_first_mask_is_empty_is_left_out(tmp_path):
    videos = MaskedVideos(pack_squares(tmp_path / "squares", 4, empty=[0, 2]))
    seen = [video.sample for video in videos.read([3, 2, 1, 0])]
    assert len(seen) == len(videos.empty) == 2 and sorted([*seen, *videos.empty]) == [0, 1, 2, 3]
    assert seen == sorted(seen, reverse=True)


def test_of_a_video_that_is_left_out_one_mask_is_read(tmp_path, monkeypatch):
    videos, read = MaskedVideos(pack_squares(tmp_path / "squares", 2, empty=[0, 1])), []
    start = Reader.start
    monkeypatch.setattr(
        Reader, "start", lambda self, rows, *rest: read.append(rows.tolist()) or start(self, rows, *rest)
    )
    assert list(videos.read([0, 1])) == [] and videos.empty == {0, 1}
    assert read == [[0], [FRAMES]]


def test_the_first_and_the_last_frame_do_not_count():
    def counted(known: list[int], frames: int = 4) -> list[int]:
        mask, frame = np.array([[0, 3, 255]], np.uint8), np.zeros((1, 3, 3), np.uint8)
        video = MaskedVideo(sample=0, frames=[frame] * frames, masks=dict.fromkeys(known, mask), ignored=255)
        assert video.objects == [3]
        return video.counted()

    assert counted([0, 1, 2, 3]) == [1, 2] and counted([0, 2]) == [2]
    assert counted([0, 3]) == [3], "where no other has a mask"


def test_what_has_no_masks_of_frames_is_refused(tmp_path, digits):
    with pytest.raises(UserError, match="have no masks of frames; propagate carries") as caught:
        MaskedVideos(ShardFolder(digits / "train"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="have no masks of frames"):
        MaskedVideos(pack_squares(tmp_path / "bare", masks=False))
    shards, other = pack_squares(tmp_path / "squares"), ShardFolder(tmp_path / "squares")
    assert MaskedVideos(shards).digest() == MaskedVideos(other).digest()
    assert MaskedVideos(shards).digest() != MaskedVideos(pack_squares(tmp_path / "two", 2)).digest()
