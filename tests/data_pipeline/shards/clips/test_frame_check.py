"""Each frame is examined as an image is; none is decoded twice, none is held decoded for long."""

import io
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.shards.clips.frame_check import BATCH_SIZE, examine_clip
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS, BadImage, examine
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import Footage, FrameFile, FrameFiles

OPTIONS = {"resize": None, "max_pixels": MAX_PIXELS}


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def noise(count: int, shape: tuple[int, ...] = (24, 40, 3), kind: str = "JPEG") -> list[bytes]:
    rng = np.random.default_rng(7)
    return [encoded(rng.integers(0, 256, shape, np.uint8), kind) for _ in range(count)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_frames_are_what_images_are(kind: str):
    frames = noise(BATCH_SIZE + 3, kind=kind)
    found = examine_clip(Footage(rate=8.0, frames={"": frames}), resize=12, max_pixels=MAX_PIXELS)
    alone = [examine(frame, resize=12) for frame in frames]
    assert found.clip is not None and found.clip.frames == alone and (found.height, found.width) == (12, 20)
    assert found.data == alone[0].data and found.sums == tuple(np.sum([one.sums for one in alone], 0).tolist())
    luma = [np.asarray(Image.open(io.BytesIO(one.data)).convert("L"), np.float64) for one in alone]
    expected = [np.abs(a - b).mean() for a, b in pairwise(luma)] + [0]
    assert found.clip.motion == pytest.approx(expected, rel=1e-12) and min(expected[:-1]) > 10


def test_in_place_nothing_is_rewritten_or_kept():
    found = examine_clip(Footage(rate=0.0, frames={"": noise(3)}), in_place=True, max_pixels=MAX_PIXELS)
    assert found.clip is not None and [frame.data for frame in found.clip.frames] == [b""] * 3
    assert all(frame.luma is None for frame in found.clip.frames) and min(found.clip.motion[:2]) > 10
    with pytest.raises(BadImage, match=r"^frame 0: webp: would have to be rewritten"):
        examine_clip(Footage(rate=0.0, frames={"": noise(3, kind="WEBP")}), in_place=True, max_pixels=MAX_PIXELS)


def test_what_lies_in_files_and_stays_as_it_is_is_not_held(tmp_path: Path):
    files = []
    for number, data in enumerate([*noise(2), *noise(1, (24, 40, 3), "PNG")]):
        (tmp_path / str(number)).write_bytes(data)
        files.append(FrameFile(str(number), Place(str(tmp_path / str(number)), 0, len(data))))
    source = FrameFiles(files={"": files})
    found, shrunk = examine_clip(source, **OPTIONS), examine_clip(source, resize=12, max_pixels=MAX_PIXELS)
    assert found.clip is not None and [frame.data for frame in found.clip.frames] == [b"", b"", b""]
    assert [frame.crc32 for frame in found.clip.frames] == [zlib.crc32(place.read()) for place in source.places]
    assert shrunk.clip is not None and all(frame.data and frame.kind == "resized" for frame in shrunk.clip.frames)


def test_a_header_that_dali_misreads_is_rewritten_or_named():
    good = noise(2)
    odd = good[1].replace(b"\xff\xc0", b"zz\xff\xc0")
    found = examine_clip(Footage(rate=0.0, frames={"": [good[0], odd]}), **OPTIONS)
    assert found.clip is not None and [frame.kind for frame in found.clip.frames] == [None, "unusual header"]
    with pytest.raises(BadImage, match="frame 1: DALI cannot read its header"):
        examine_clip(Footage(rate=0.0, frames={"": [good[0], odd]}), in_place=True, max_pixels=MAX_PIXELS)


def test_a_decoder_may_fail_half_way_and_is_asked_for_no_more_than_a_batch():
    asked = []

    def decode() -> Iterator[bytes]:
        for number, frame in enumerate(noise(200, (4, 4))):
            asked.append(number)
            if number == 3:
                frame = b"no image"
            yield frame

    with pytest.raises(BadImage, match="frame 3: not an image of a known format"):
        examine_clip(Footage(rate=0.0, frames={"": decode()}), **OPTIONS)
    assert len(asked) == BATCH_SIZE

    def cut() -> Iterator[bytes]:
        yield from noise(2)
        raise BadImage("the video ends in the middle of a frame")

    with pytest.raises(BadImage, match=r"^the video ends in the middle"):
        examine_clip(Footage(rate=0.0, frames={"": cut()}), **OPTIONS)


def test_too_many_frames(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eyespot.data_pipeline.shards.clips.frame_check.MOST_FRAMES", 70)
    assert examine_clip(Footage(rate=0.0, frames={"": noise(70, (4, 4))}), **OPTIONS).clip is not None
    with pytest.raises(BadImage, match="more than 70 frames; cut it"):
        examine_clip(Footage(rate=0.0, frames={"": noise(71, (4, 4))}), **OPTIONS)


def test_masks_follow_their_frames():
    masks = [None, encoded(np.full((24, 40), 3, np.uint8), "PNG")]
    footage = Footage(rate=0.0, frames={"": noise(2)}, masks={"": masks})
    found = examine_clip(footage, resize=12, max_pixels=MAX_PIXELS)
    assert found.mask is None and found.clip is not None
    stored = found.clip.frames[1].mask
    assert stored is not None and stored.counts[3] == 12 * 20
    with pytest.raises(BadImage, match="its mask is 40 x 24 pixels where the image is 40 x 20"):
        bad = Footage(rate=0.0, frames={"": noise(2, (20, 40, 3))}, masks={"": masks})
        examine_clip(bad, **OPTIONS)
    with pytest.raises(BadImage, match="no mask of any frame"):
        examine_clip(Footage(rate=0.0, frames={"": noise(2)}, masks={"": [None, None]}), **OPTIONS)
