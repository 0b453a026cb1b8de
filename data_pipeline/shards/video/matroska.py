"""Whether a Matroska or WebM file is all there, by its bytes alone.

Its times do not tell: a block need not say for how long its frame is shown, so where the last frame stays for long the
frames end much earlier than the header says, as they do in a file that was cut. But elements say how long they are
(RFC 8794): whoever steps from one to the next arrives at the end of the file, if nothing is missing.
"""

from typing import NamedTuple

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.containers import Window

_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_LONGEST_HEAD = 12
"""Bytes of an element's name and length."""


class _Element(NamedTuple):
    name: bytes
    begin: int
    """Of what is in it."""
    end: int


def is_complete(place: Place) -> bool:
    """Whether the elements of the Segment, and those of its last Cluster, follow each other to the end of either.

    Args:
        place: where the file's bytes lie.

    Returns:
        False also where an element does not say how long it is, as those of a live stream.
    """
    with Window(place) as file:
        at = 0
        while (found := _element(file, at, place.size)) is not None and found.name != _SEGMENT:
            at = found.end
        if found is None:
            return False
        last, at = found, found.begin
        while at < found.end:
            inside = _element(file, at, found.end)
            if inside is None:
                return False
            last, at = inside if inside.name == _CLUSTER else last, inside.end
        at = last.begin
        while at < last.end and (inside := _element(file, at, last.end)) is not None:
            at = inside.end
        return last.name == _CLUSTER and at == last.end


def _element(file: Window, at: int, limit: int) -> _Element | None:
    """The element that begins there; None where there is none that ends by ``limit``, or it does not say where."""
    file.seek(at)
    head = file.read(_LONGEST_HEAD) or b""
    length = _length(head, 4)
    if length is None or (size_length := _length(head[length:], 8)) is None:
        return None
    digits = head[length : length + size_length]
    bits = 7 * size_length
    size = int.from_bytes(digits, "big") & ((1 << bits) - 1)
    begin = at + length + size_length
    if len(digits) < size_length or size == (1 << bits) - 1 or begin + size > limit:
        return None
    return _Element(head[:length], begin, begin + size)


def _length(head: bytes, most: int) -> int | None:
    """Bytes of the number that begins there, by the zeros before its first one."""
    if not head or (length := 9 - head[0].bit_length()) > most:
        return None
    return length
