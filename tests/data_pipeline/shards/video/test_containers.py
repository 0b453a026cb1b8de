import importlib.util

import pytest
from moving_pictures import film

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.containers import HEAD, Window, check_installed, demuxer


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        (".mp4", "mov,mp4"),
        (".mov", "mov,mp4"),
        (".mkv", "matroska"),
        (".webm", "matroska"),
        (".avi", "avi"),
        (".gif", "gif"),
    ],
)
def test_the_first_bytes_say_what_reads_it(tmp_path, suffix, name):
    path = film(tmp_path / f"one{suffix}", 3)
    assert str(demuxer(path.read_bytes()[:HEAD])).startswith(name)


@pytest.mark.parametrize(
    "head", [b"", b"#EXTM3U\n#EXT-X", b"ffconcat version 1.0", b"RIFF\0\0\0\0WAVEfmt ", b"\xff\xd8\xff\xe0"]
)
def test_playlists_scripts_sound_and_images_are_no_videos(head):
    assert demuxer(head) is None


def test_a_window_is_a_file_by_itself(tmp_path):
    (tmp_path / "all").write_bytes(bytes(range(100)))
    with Window(Place(str(tmp_path / "all"), 10, 20)) as window:
        assert window.read(4) == bytes(range(10, 14)) and window.tell() == 4
        assert window.seek(-3, 2) == 17 and window.read() == bytes(range(27, 30)) and window.read(5) == b""
        assert window.seek(2) == 2 and window.seek(3, 1) == 5 and window.seek(99) == 99 and window.read(1) == b""


def test_without_pyav_one_line_says_what_to_install(monkeypatch):
    check_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'eyespot\[video\]'"):
        check_installed()
