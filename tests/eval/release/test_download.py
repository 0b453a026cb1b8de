"""What fetches files: it asks again where a server fails for a moment, and as patiently as that asks for."""

import io
import urllib.error
from email.message import Message

import pytest

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.eval.release import download
from eyespot.eval.release.download import patiently, retry_after


def busy(seconds: str | None) -> Outage:
    headers = Message()
    if seconds is not None:
        headers["Retry-After"] = seconds
    outage = Outage("busy")
    outage.__cause__ = urllib.error.HTTPError("http://host", 503, "busy", headers, io.BytesIO())
    return outage


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), (" 12 ", 12), ("soon", 0), ("-3", 0), (None, 0), ("9" * 99, 999_999_999), ("\xb2", 0)],
)
def test_how_long_a_server_asks_to_wait(said: str | None, seconds: float):
    assert retry_after(busy(said)) == seconds and retry_after(Outage("else")) == 0


def test_it_is_done_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    outcomes = [busy(None), busy("5"), busy(None), "there"]

    def work() -> str:
        found = outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert patiently(work, 4) == "there" and slept == [1, 5, 4]
    outcomes += [busy(None), busy(None), "never"]
    with pytest.raises(Outage):
        patiently(work, 2)
    assert outcomes.pop() == "never" and len(slept) == 4


def test_what_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("waited"))

    def work(error: Exception) -> None:
        raise error

    with pytest.raises(UserError):
        patiently(lambda: work(UserError("wrong")), 5)
    with pytest.raises(Outage):
        patiently(lambda: work(busy("61")), 5)
