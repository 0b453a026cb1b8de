"""Captions: UTF-8 text beside an image, each line that is not empty one caption of it."""

import re

LARGEST_TEXT = 2**16
"""Bytes of all captions of one sample: no page that somebody scraped in place of a caption."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 but for the tab, DEL, C1. What joins emoji, or turns the direction of text, is text."""


class BadMember(Exception):
    """The bytes of a member cannot be used. The message is the reason, one line."""


def captions_of(data: bytes | bytearray) -> list[str]:
    """The captions in a text, in their order, without the blanks around them.

    Args:
        data: UTF-8, with or without a mark at its beginning; lines end with a newline, or with both marks of DOS.

    Raises:
        BadMember: it is too long, not UTF-8, holds control characters, or no caption.
    """
    if len(data) > LARGEST_TEXT:
        raise BadMember(f"its text is longer than {LARGEST_TEXT:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadMember("its text is not UTF-8") from error
    lines = text.replace("\r\n", "\n").split("\n")
    if any(_CONTROLS.search(line) for line in lines):
        raise BadMember("its text holds control characters")
    captions = [caption for line in lines if (caption := line.strip())]
    if not captions:
        raise BadMember("its text is empty")
    return captions
