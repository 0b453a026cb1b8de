"""What is left out is counted completely, and its names and reasons stay bounded and printable."""

import os

import pytest

from eyespot.data_pipeline.shards.image_check import HAS_HEIF
from eyespot.data_pipeline.shards.manifest import MOST_QUARANTINED
from eyespot.data_pipeline.shards.members import skipped
from eyespot.data_pipeline.shards.members.skipped import Tally, hidden, no_image, printable, quarantined_beyond


def test_counts_are_complete_names_are_a_few():
    tally = Tally()
    for number in range(1000):
        tally.add("a link", f"{number}.jpg")
    tally.add("a folder", "x")
    other = Tally()
    other.add_all(tally, "a.tar/")
    other.add_all(tally)
    assert [(one.reason, one.count) for one in other.listed()] == [("a link", 2000), ("a folder", 2)]
    assert other.listed()[0].examples == [f"a.tar/{number}.jpg" for number in range(skipped.MOST_EXAMPLES)]
    assert other.total == 2002


def test_a_million_reasons_become_one():
    tally = Tally()
    for number in range(500):
        tally.add(f"reason {number}", "x")
    assert tally.total == 500 and len(tally.listed()) == skipped.MOST_REASONS + 1
    assert tally.listed()[0].reason == skipped.OTHERS


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a.json", "not an image (.json)"),
        ("a.00017", "not an image"),
        ("a." + "x" * 90, "not an image"),
        ("README", "no extension"),
        ("inner.tar", "an archive inside (.tar)"),
        ("photos.TAR.GZ", "an archive inside (.gz)"),
    ],
)
def test_reasons(name: str, word: str):
    assert no_image(name).startswith(word)
    assert word != "not an image" or no_image(name) == word


@pytest.mark.skipif(HAS_HEIF, reason="pillow-heif is installed")
def test_heic_says_what_it_needs():
    assert 'pip install "eyespot[heic]"' in no_image("IMG_1.HEIC")


def test_hidden():
    assert "macOS" in str(hidden(("a", "._1.jpg"))) and "macOS" in str(hidden(("__MACOSX", "1.jpg")))
    assert "dot" in str(hidden((".thumbs", "1.jpg"))) and hidden(("a.b", "1.jpg")) is None
    assert hidden(("..", "..", "1.jpg")) is hidden((".", "1.jpg")) is None


def test_names_that_are_no_unicode():
    assert printable(os.fsdecode(b"b\xe4r.jpg")) == "b\\xe4r.jpg" and printable("bär") == "bär"


def test_beyond_what_a_manifest_names_it_still_counts():
    bad = [{"source": str(number), "reason": "empty file"} for number in range(MOST_QUARANTINED + 7)]
    (beyond,) = quarantined_beyond(bad)
    assert (beyond.reason, beyond.count, beyond.examples[0]) == ("empty file", 7, str(MOST_QUARANTINED))
    assert quarantined_beyond(bad[:5]) == []
