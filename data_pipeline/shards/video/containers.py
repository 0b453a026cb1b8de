"""What is a video: the suffix says that a file may be one, its first bytes say which demuxer reads it.

FFmpeg itself would guess, and among its guesses are playlists and scripts that make it open other files: it is told.
"""

import importlib.util
import io
import os
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Place

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
MOVING_IMAGE = ".gif"
"""An image to whoever packs images, a video to whoever packs videos. (FFmpeg decodes no animated WebP.)"""
LARGEST = 2**40
"""Bytes of a video."""
HEAD = 16

_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}


def demuxer(head: bytes) -> str | None:
    """FFmpeg's name for the container whose first bytes these are; None = none that is read."""
    if head[4:8] in _FIRST_BOXES:
        return "mov,mp4,m4a,3gp,3g2,mj2"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska,webm"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "gif" if head[:6] in (b"GIF87a", b"GIF89a") else None


def check_installed() -> None:
    """Whether videos can be decoded here.

    Raises:
        UserError: PyAV is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise UserError("videos are decoded with PyAV, which is not installed: pip install 'eyespot[video]'")


class Window(io.RawIOBase):
    """The bytes of a place, as a file by itself: a video may lie in a tar."""

    def __init__(self, place: Place) -> None:
        self._file = open(place.path, "rb", buffering=0)  # noqa: PTH123, SIM115 (closed with the window)
        self._begin, self._size, self._position = place.offset, place.size, 0
        self.outage: OSError | None = None
        """What went wrong when it was read: from then on it is empty, for FFmpeg goes on reading."""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves on, from the begin, from here or from the end."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        """Bytes from the begin."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer with what follows."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position)) if self.outage is None else 0
        try:
            read = os.preadv(self._file.fileno(), [view[:count]], self._begin + self._position) if count else 0
        except OSError as error:
            self.outage = error
            raise
        self._position += read
        return read

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
