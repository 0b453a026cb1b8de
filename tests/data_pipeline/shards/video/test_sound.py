import io
import tracemalloc

import av
import numpy as np
import pytest
from moving_pictures import film

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import BadVideo
from eyespot.data_pipeline.shards.video.sound import _joined, flac, write_flac
from eyespot.data_pipeline.shards.video.timing import Part


def heard(flac: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(flac)) as container:
        pieces = [frame.to_ndarray().reshape(-1, len(frame.layout.channels)) for frame in container.decode(audio=0)]
        return np.concatenate(pieces), container.streams.audio[0].sample_rate


def cut(path, parts, start=0.0) -> list[bytes]:
    found = [Part(first=0, count=1, start=a, end=b) for a, b in parts]
    file = io.BytesIO(b"frames")
    places = write_flac(Place(str(path), 0, path.stat().st_size), start, found, file, lambda: None)
    assert file.getvalue()[:6] == b"frames" and len(file.getvalue()) == 6 + sum(size for _, size in places)
    return [file.getvalue()[offset : offset + size] for offset, size in places]


@pytest.mark.parametrize("channels", [1, 2])
def test_flac_gives_back_each_sample(channels):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (5000, channels)).astype(np.int16)
    files = []
    for blocks in ([samples], np.split(samples, [1, 7, 4000])):
        file = io.BytesIO()
        with flac(file, 8000, channels) as write:
            for block in blocks:
                write(block)
        files.append(file.getvalue())
    found, rate = heard(files[0])
    assert rate == 8000 and np.array_equal(found, samples) and files[1] == files[0]


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


def test_sound_of_hours_takes_no_more_memory_than_that_of_seconds(tmp_path):
    path = film(tmp_path / "one.mp4", 24, rate=12, sound=1.5)
    tracemalloc.start()
    with (tmp_path / "sound").open("w+b") as file:
        found = [Part(first=0, count=1, start=0.0, end=2400.0)]
        ((_, size),) = write_flac(Place(str(path), 0, path.stat().st_size), 0.0, found, file, lambda: None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4_000_000 < 2400 * 16000 * 2 and (tmp_path / "sound").stat().st_size == size
    with av.open(str(tmp_path / "sound")) as container:
        assert container.duration == 2400 * 1_000_000


def test_sound_that_begins_late_and_has_a_gap_is_moved_to_its_time():
    tone, ends = np.ones((160, 2), np.int16), [0, 3000, 3100, 500_000]
    sound = np.concatenate(list(_joined(iter([(end, tone) for end in ends]), 1000, 2)))
    assert len(sound) == 500_160 and [int(place) for place in np.flatnonzero(sound[:, 0])[[0, -1]]] == [0, 500_159]
    assert sound[:, 0].sum() == 160 + 160 + 100 + 160 and sound[3000:3260].all() and not sound[160:3000].any()


def test_a_video_without_sound_has_none(tmp_path):
    assert cut(film(tmp_path / "one.mp4", 4), [(0.0, 1.0)]) == []


def test_sound_of_a_codec_that_nobody_knows_is_named(tmp_path):
    path = film(tmp_path / "one.mkv", 12, sound=1.0)
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XXX"))
    with pytest.raises(BadVideo, match="sound is of a codec that FFmpeg does not know"):
        cut(path, [(0.0, 1.0)])
