"""Whether the bytes of a GIF end before it does: its decoder does not tell, its header knows nothing of its length."""

import io

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.containers import Window

_EXTENSION, _IMAGE = 0x21, 0x2C
_TABLE = 0x80
"""Flag: a table of colours follows, of 2 ** (1 + the flags' lowest three bits)."""


def is_cut(place: Place) -> bool:
    """Whether a GIF ends within a block, or in zeros, as a file may that is still fetched.

    One that ends between two blocks is taken for whole: some writers forget the trailer (GIF89a specification, 27).

    Args:
        place: where its bytes lie.
    """
    with io.BufferedReader(Window(place)) as file:
        if not _skip_table(file, 13, 10):
            return True
        while (kind := file.read(1)) in (bytes([_EXTENSION]), bytes([_IMAGE])):
            if kind[0] == _IMAGE and not _skip_table(file, 9, 8):
                return True
            if not file.read(1) or not _skip_pieces(file):  # the kind of extension, or the bits of the first code
                return True
        return kind == b"\0" and not file.read().strip(b"\0")


def _skip_table(file: io.BufferedIOBase, length: int, flags: int) -> bool:
    """Past a head, and the table of colours if one follows; False where the file ends first."""
    head = file.read(length)
    if len(head) < length:
        return False
    size = 3 * 2 ** (1 + (head[flags] & 7)) if head[flags] & _TABLE else 0
    return len(file.read(size)) == size


def _skip_pieces(file: io.BufferedIOBase) -> bool:
    """Past pieces of data, each with its length before it; False where the file ends before the one of length 0."""
    while size := file.read(1):
        if not size[0]:
            return True
        if len(file.read(size[0])) < size[0]:
            return False
    return False
