"""Opens files that somebody else may have made: a pipe or a device in a file's place is refused, not waited for."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

NOT_PLAIN = "not a plain file"
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def open_plain(path: Path, inside: Path | None = None) -> BufferedReader:
    """Opens a file for reading.

    Args:
        path: the file.
        inside: a folder above it, out of which no link may lead: as ``open_inside``.

    Raises:
        OSError: it cannot be opened; EINVAL where a pipe, a device, a socket or a folder stands there.
    """
    if inside is not None:
        return open_inside(inside, *path.relative_to(inside).parts)
    return _plain(os.open(path, _FLAGS), str(path))  # a pipe's open would wait for its writer


def open_inside(folder: Path, *names: str) -> BufferedReader:
    """Opens a file below a folder for reading, and no other: a link on the way is refused, wherever it leads.

    Args:
        folder: may itself be reached over links.
        names: of the folders below it, and of the file.

    Raises:
        OSError: it cannot be opened; EINVAL where a name is none, or no plain file stands there; ELOOP at a link,
            ENOTDIR at one in a folder's place.
    """
    shown = str(folder.joinpath(*names))
    if not names or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
        raise OSError(errno.EINVAL, "not a name", shown)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            outer, place = place, os.open(name, _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(outer)
        return _plain(os.open(names[-1], _FLAGS | os.O_NOFOLLOW, dir_fd=place), shown)
    finally:
        os.close(place)


def read_tail(path: Path, most: int, inside: Path | None = None) -> bytes:
    """The end of a file, from the start of a line; nothing where it cannot be read.

    Args:
        path: the file.
        most: bytes that are read.
        inside: as in ``open_plain``.
    """
    try:
        with open_plain(path, inside) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            text = file.read()
    except OSError:
        return b""
    return text if size <= most else text[text.find(b"\n") + 1 :]


def _plain(descriptor: int, shown: str) -> BufferedReader:
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, NOT_PLAIN, shown)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
