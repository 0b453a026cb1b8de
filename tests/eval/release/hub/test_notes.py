"""What a cache remembers of hubs; what somebody else wrote there is not believed."""

from pathlib import Path

import pytest

from eyespot.eval.release.hub.address import HubAddress
from eyespot.eval.release.hub.notes import HubNotes


def test_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notes = HubNotes(tmp_path, HubAddress("org/name", "a/b"))
    assert notes.commit_of("a/b") is None and notes.digest_of("1" * 40) is None
    notes.write("a/b", "1" * 40, "2" * 64)
    again = HubNotes(tmp_path, HubAddress("org/name"))
    assert again.commit_of("a/b") == "1" * 40 and again.digest_of("1" * 40) == "2" * 64
    assert HubNotes(tmp_path, HubAddress("org/other")).commit_of("a/b") is None
    (place,) = tmp_path.glob("hub/*/org--name/commits/*")
    for text in ("../../etc", "3" * 63, "4" * 70, ""):
        place.write_text(text)
        assert again.digest_of("1" * 40) is None
    again.write("main", "1" * 40, "2" * 64)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://mirror")
    mirror = HubNotes(tmp_path, HubAddress("org/name"))
    assert mirror.digest_of("1" * 40) is None and mirror.commit_of("main") is None
    mirror.write("main", "1" * 40, "3" * 64)
    assert again.digest_of("1" * 40) == "2" * 64
