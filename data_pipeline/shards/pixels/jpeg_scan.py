"""Where a JPEG ends, read off its markers: nothing is decoded."""

import numpy as np

COMMON_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended, progressive; all Huffman-coded."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END = 0xD9
# What follows ff in a marker, but not in a scan's data: those hold stuffed zeros (ff 00) and restarts (ff d0 .. ff d7).
_IS_MARKER = np.isin(np.arange(256), [0, *range(0xD0, 0xD8), 0xFF], invert=True)
_MARKERS = _IS_MARKER.tolist()


def walk_jpeg(data: bytes) -> tuple[int | None, int]:
    """Finds where the end-of-image marker of the (first) picture stands and its kind of frame (SOFn)."""
    after: np.ndarray | None = None  # as _after_ff says; sought once there is a scan to be skipped
    position, frame = 2, 0
    while (place := position + 1) < len(data):
        if data[position] != 0xFF or not _MARKERS[data[place]]:
            after = _after_ff(data, position) if after is None else after
            if (which := int(after.searchsorted(place))) == len(after):
                break
            place = int(after[which])
        marker = data[place]
        if marker == _END:
            before = data[position:place].rstrip(b"\xff")  # any number of ff may stand before a marker
            return position + len(before), frame
        if marker in _FRAMES:
            frame = marker
        position = place + 1 + int.from_bytes(data[place + 1 : place + 3], "big")
    return None, frame


def _after_ff(data: bytes, start: int) -> np.ndarray:
    """Where, behind ``start``, a byte stands that makes a marker of the ff before it."""
    after = ((raw := np.frombuffer(data, np.uint8))[start:-1] == 0xFF).nonzero()[0] + (start + 1)
    return after[_IS_MARKER[raw[after]]]
