"""Captions: lines of UTF-8, of any script; what is no text is refused with a reason."""

import pytest

from eyespot.data_pipeline.shards.members.captions import LARGEST_TEXT, BadMember, captions_of


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("a cat", ["a cat"]),
        ("\ufeffa cat\r\n\n  a black cat \n", ["a cat", "a black cat"]),
        ("“Où est-il?” 猫\tund 👩‍👩‍👧\nline\u2028separator", ["“Où est-il?” 猫\tund 👩‍👩‍👧", "line\u2028separator"]),
    ],
)
def test_each_line_is_a_caption(text: str, captions: list[str]):
    assert captions_of(text.encode()) == captions


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \r\n\t\n", "empty"),
        ("caf\u00e9".encode("latin-1"), "not UTF-8"),
        ("\ud83d".encode("utf-8", "surrogatepass"), "not UTF-8"),
        (b"a\0b", "control characters"),
        (b"\x1b[2J", "control characters"),
        ("a\x9bb".encode(), "control characters"),
        (b"a\rb", "control characters"),
        (b"x" * (LARGEST_TEXT + 1), "longer than 65,536 bytes"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, reason: str):
    with pytest.raises(BadMember, match=reason):
        captions_of(data)
