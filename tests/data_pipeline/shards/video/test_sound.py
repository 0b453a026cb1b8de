import io

import av
import numpy as np
import pytest
from moving_pictures import film

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import BadVideo
from eyespot.data_pipeline.shards.video.sound import encode_flac, flac_parts
from eyespot.data_pipeline.shards.video.timing import Part


def heard(flac: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(flac)) as container:
        pieces = [frame.to_ndarray().reshape(-1, len(frame.layout.channels)) for frame in container.decode(audio=0)]
        return np.concatenate(pieces), container.streams.audio[0].sample_rate


def cut(path, parts, start=0.0) -> list[bytes]:
    found = [Part(first=0, count=1, start=a, end=b) for a, b in parts]
    return list(flac_parts(Place(str(path), 0, path.stat().st_size), start, found, lambda: None))


@pytest.mark.parametrize("channels", [1, 2])
def test_flac_gives_back_each_sample(channels):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (5000, channels)).astype(np.int16)
    found, rate = heard(encode_flac(samples, 8000))
    assert rate == 8000 and np.array_equal(found, samples)


def test_parts_are_as_long_as_their_frames_and_follow_each_other(tmp_path):
    path = film(tmp_path / "one.mp4", 24, rate=12, sound=1.5)
    whole, rate = heard(cut(path, [(0.0, 2.0)])[0])
    assert rate == 16000 and len(whole) == 32000
    assert np.abs(whole[1000:23000]).max() > 8000 and np.abs(whole[26000:]).max() == 0  # silence behind the tone
    pieces = [heard(flac)[0] for flac in cut(path, [(0.0, 0.7), (0.7, 1.2), (1.2, 2.0)])]
    assert [len(piece) for piece in pieces] == [11200, 8000, 12800]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_sound_goes_by_the_clock_of_the_frames(tmp_path):
    path = film(tmp_path / "one.mp4", 24, rate=12, sound=1.5)
    whole, later = heard(cut(path, [(0.0, 1.0)])[0])[0], heard(cut(path, [(0.0, 0.5)], start=0.5)[0])[0]
    assert np.array_equal(later, whole[8000:])


def test_a_video_without_sound_has_none(tmp_path):
    assert cut(film(tmp_path / "one.mp4", 4), [(0.0, 1.0)]) == []


def test_sound_of_a_codec_that_nobody_knows_is_named(tmp_path):
    path = film(tmp_path / "one.mkv", 12, sound=1.0)
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XXX"))
    with pytest.raises(BadVideo, match="sound is of a codec that FFmpeg does not know"):
        cut(path, [(0.0, 1.0)])
