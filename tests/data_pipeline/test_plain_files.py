import os
import socket
from pathlib import Path

import pytest

from eyespot.data_pipeline.plain_files import open_inside, open_plain


def a_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # its address may have 108 bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.fchdir(here)
    os.close(here)


STRANGE = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": a_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    STRANGE[kind](tmp_path / "x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=r"not a plain file|symbolic links|No such device"):
        open_plain(tmp_path / "x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "left open"


def test_a_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "x").write_bytes(b"what it has")
    (tmp_path / "link").symlink_to("x")
    for name in ("x", "link"):
        with open_plain(tmp_path / name) as file:
            assert file.read() == b"what it has"


def test_nothing_outside_a_folder_is_opened_from_inside_it(tmp_path):
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"outside")
    (inside / "deep" / "x").write_bytes(b"what it has")
    (inside / "file").symlink_to("../x")
    (inside / "deep" / "own").symlink_to("x")
    (inside / "folder").symlink_to("deep")
    (tmp_path / "way").symlink_to("inside")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_inside(inside, "deep", "x") as file, open_inside(tmp_path / "way", "deep", "x") as other:
        assert file.read() == other.read() == b"what it has"
    for names in ((), ("..", "x"), ("deep", ""), ("deep", "."), ("deep/x",), ("x\0",), ("deep",), ("none",)):
        with pytest.raises(OSError):
            open_inside(inside, *names)
    for names in (("file",), ("deep", "own"), ("folder", "x")):
        with pytest.raises(OSError, match=r"symbolic|Not a directory"):
            open_inside(inside, *names)
        with pytest.raises(OSError, match=r"symbolic|Not a directory"):
            open_plain(inside.joinpath(*names), inside)
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "left open"
