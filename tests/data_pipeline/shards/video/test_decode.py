import errno
import io
import os
import struct
import zlib
from typing import Any

import av
import numpy as np
import pytest
from moving_pictures import CODECS, film, levels
from PIL import Image

from eyespot.data_pipeline.shards.image_check import encode_jpeg
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import BadVideo, Ending, Frame, Wanted, frames, turned


def decode(path, **options) -> tuple[list[Frame], Ending]:
    ending = Ending()
    wanted = Wanted(**{"fps": None, "resize": None, "max_pixels": 2**20, "max_frames": 1000, **options})
    return list(frames(Place(str(path), 0, path.stat().st_size), wanted, ending, lambda: None)), ending


@pytest.mark.parametrize("suffix", CODECS)
def test_every_frame_of_each_container_comes_in_its_order(tmp_path, suffix):
    found, ending = decode(film(tmp_path / f"one{suffix}", 15, rate=10))
    assert levels([frame.jpeg for frame in found]) == list(range(15))
    assert [frame.time for frame in found] == pytest.approx(np.arange(15) / 10, abs=0.011)
    assert ending.seconds == pytest.approx(1.5, abs=0.02) and all(frame.repeats == 1 for frame in found)


@pytest.mark.parametrize("name", ["nasa.mp4", "av1_video.mkv", "h265_video.mp4"])
def test_real_files_are_decoded_to_their_end(real_data, name):
    found, ending = decode(real_data / "codecs" / name, resize=48)
    count, seconds = {"nasa.mp4": (390, 13.013), "av1_video.mkv": (125, 5.0), "h265_video.mp4": (10, 1.0)}[name]
    assert len(found) == count and ending.seconds == pytest.approx(seconds)
    assert min(Image.open(io.BytesIO(found[-1].jpeg)).size) == 48


def test_variable_rates_are_resampled_by_their_times(tmp_path):
    times = [0, 40, 80, 120, 500, 1000, 1040, 1080]
    path = film(tmp_path / "one.mkv", 8, times=times)
    found, _ = decode(path, fps=10.0)
    shown = [number for frame in found for number in levels([frame.jpeg]) * frame.repeats]
    assert shown[:11] == [0, 2, 3, 3, 3, 4, 4, 4, 4, 4, 5]
    kept, _ = decode(path)
    assert [frame.time for frame in kept] == pytest.approx(np.array(times) / 1000)


def test_frames_are_those_of_the_decoder_in_the_projects_jpeg(tmp_path):
    path = film(tmp_path / "one.mp4", 3)
    with av.open(str(path)) as container:
        pixels = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.jpeg for frame in decode(path)[0]] == [encode_jpeg(Image.fromarray(one)) for one in pixels]


@pytest.mark.parametrize(("rotation", "side"), [(0, "top"), (90, "left"), (-90, "right"), (180, "bottom")])
def test_the_display_matrix_turns(tmp_path, rotation, side):
    found, _ = decode(film(tmp_path / "one.mp4", 2, rotation=rotation))
    pixels = np.asarray(Image.open(io.BytesIO(found[0].jpeg)).convert("L")).astype(float)
    strips = {"top": pixels[:4], "bottom": pixels[-4:], "left": pixels[:, :4], "right": pixels[:, -4:]}
    assert max(strips, key=lambda name: strips[name].mean()) == side
    assert pixels.shape == ((64, 48) if abs(rotation) == 90 else (48, 64))


def test_a_display_matrix_may_mirror():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for matrix, expected in (
        ([1, 0, 0, 1], pixels),
        ([-1, 0, 0, 1], pixels[:, ::-1]),
        ([1, 0, 0, -1], pixels[::-1]),
        ([0, 1, 1, 0], pixels.T),
        ([0, 1, -1, 0], np.rot90(pixels, -1)),
        ([0, -1, 1, 0], np.rot90(pixels, 1)),
    ):
        assert np.array_equal(np.asarray(turned(Image.fromarray(pixels), matrix)), expected), matrix


def test_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 8, 4))
    second = Image.new("RGBA", (8, 8), (0, 0, 255, 255))
    image.save(tmp_path / "one.gif", save_all=True, append_images=[second], duration=200, disposal=2)
    pixels = np.asarray(Image.open(io.BytesIO(decode(tmp_path / "one.gif")[0][0].jpeg)).convert("RGB"))
    assert pixels[7, 7].min() > 240 and pixels[0, 0, 0] > 200 and pixels[0, 0, 2] < 60


def test_what_is_no_video_is_told_in_a_line(tmp_path, real_data):
    nasa = (real_data / "codecs" / "nasa.mp4").read_bytes()
    tone = film(tmp_path / "tone.mp4", 2, sound=0.5)
    with av.open(str(tone)) as source, av.open(str(tmp_path / "sound.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    wrong = {
        "empty.mp4": (b"", "empty file"),
        "text.mp4": (b"#EXTM3U\nhttp://example.org/film.mp4\n" * 9, "no video of a known container"),
        "one.mp4": (nasa[:1], "no video of a known container"),
        "photo.mp4": (encode_jpeg(Image.new("RGB", (8, 8))), "no video of a known container"),
        "cut.mp4": (nasa[: len(nasa) // 2], "cut or damaged: moov atom not found"),
        "header.mkv": (b"\x1aE\xdf\xa3" + bytes(200), "cut or damaged"),
        "sound.mp4": ((tmp_path / "sound.mp4").read_bytes(), r"no video stream \(sound only\)"),
    }
    for name, (content, reason) in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadVideo, match=reason):
            decode(tmp_path / name)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".webm"])
def test_half_a_file_is_not_taken_for_a_short_one(tmp_path, suffix):
    path = film(tmp_path / f"one{suffix}", 60, rate=24, size=(160, 120))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadVideo, match=r"cut|damaged"):
        decode(path)


def trimmed(path, begin: float, seconds: float):
    """A copy with its header in front, of which an edit list shows so much."""
    shown = path.with_name("trimmed.mp4")
    with av.open(str(path)) as source, av.open(str(shown), "w", options={"movflags": "faststart"}) as target:
        stream: Any = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
        ticks = int(stream.time_base.denominator)
    content = bytearray(shown.read_bytes())
    at = content.index(b"elst") + 8
    count, _, first = struct.unpack_from(">IIi", content, at)
    assert count == 1
    struct.pack_into(">Ii", content, at + 4, round(1000 * seconds), first + round(ticks * begin))
    shown.write_bytes(content)
    return shown


def test_what_an_edit_list_hides_is_not_missing(tmp_path):
    path = trimmed(film(tmp_path / "one.mp4", 48, rate=12, size=(160, 120)), 1.0, 2.0)
    found, ending = decode(path)
    assert levels([frame.jpeg for frame in found]) == list(range(12, 36))
    assert ending.seconds == pytest.approx(2.0, abs=0.02)
    path.write_bytes(path.read_bytes()[:-2000])  # behind frame 20 or so
    with pytest.raises(BadVideo, match=r"cut|damaged"):
        decode(path)


@pytest.mark.parametrize("suffix", CODECS)
def test_an_outage_is_no_damage_and_leaves_nothing_on_the_screen(tmp_path, suffix, monkeypatch, capfd):
    path, read, calls = film(tmp_path / f"one{suffix}", 20), os.preadv, []

    def fail(*place):
        calls.append(place)
        if len(calls) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return read(*place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        with pytest.raises(OSError, match="Input/output error"):
            decode(path)
    assert len(calls) == 2 and capfd.readouterr() == ("", "")


def test_the_suffix_does_not_matter_where_the_bytes_are_a_video(tmp_path):
    path = film(tmp_path / "one.mkv", 4).rename(tmp_path / "one.mp4")
    assert len(decode(path)[0]) == 4


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    path = film(tmp_path / "one.mp4", 30, size=(320, 240))
    with pytest.raises(BadVideo, match=r"320 x 240 pixels.*--max-pixels"):
        decode(path, max_pixels=320 * 240 - 1)
    with pytest.raises(BadVideo, match=r"more than 20 frames.*--fps.*--max-frames"):
        decode(path, max_frames=20)
    slow = film(tmp_path / "slow.mkv", 3, times=[0, 100, 100_000_000], codec="mjpeg")
    with pytest.raises(BadVideo, match=r"timestamps|hours"):
        decode(slow, fps=30.0, max_frames=10**9)


def test_a_gif_whose_sides_are_a_lie_takes_no_memory(tmp_path):
    head = b"GIF89a" + struct.pack("<HHBBB", 65000, 65000, 0, 0, 0)
    (tmp_path / "one.gif").write_bytes(head + b"\x2c" + bytes(9) + b"\x02\x02\x4c\x01\x00\x3b" + zlib.compress(b"x"))
    with pytest.raises(BadVideo, match=r"max-pixels|damaged"):
        decode(tmp_path / "one.gif")


def test_a_codec_that_nobody_knows_is_named(tmp_path):
    path = film(tmp_path / "one.mkv", 3)
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_XXXX4/ISO/ASP"))
    with pytest.raises(BadVideo, match="codec that FFmpeg does not know"):
        decode(path)


def test_pixels_are_made_square_within_the_limits(tmp_path):
    path = film(tmp_path / "one.mkv", 2, size=(320, 240), aspect=2)
    assert Image.open(io.BytesIO(decode(path)[0][0].jpeg)).size == (640, 240)
    with pytest.raises(BadVideo, match=r"640 x 240 pixels.*--max-pixels"):
        decode(path, max_pixels=640 * 240 - 1)
