"""What a cache remembers of hubs; what somebody else wrote there is not believed."""

from pathlib import Path

from eyespot.eval.release.hub.address import HubAddress
from eyespot.eval.release.hub.notes import HubNotes


def test_notes(tmp_path: Path):
    notes = HubNotes(tmp_path, HubAddress("org/name", "a/b"))
    assert notes.commit_of("a/b") is None and notes.digest_of("1" * 40) is None
    notes.write("a/b", "1" * 40, "2" * 64)
    again = HubNotes(tmp_path, HubAddress("org/name"))
    assert again.commit_of("a/b") == "1" * 40 and again.digest_of("1" * 40) == "2" * 64
    assert HubNotes(tmp_path, HubAddress("org/other")).commit_of("a/b") is None
    for text in ("../../etc", "3" * 63, "4" * 70, ""):
        (tmp_path / "hub" / "org--name" / "commits" / ("1" * 40)).write_text(text)
        assert again.digest_of("1" * 40) is None
