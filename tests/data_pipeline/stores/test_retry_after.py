"""A store that says how long to wait is given so long."""

import email.utils
import time

import pytest

from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.stores import object_store
from eyespot.data_pipeline.stores.retry_after import LONGEST, seconds_of
from eyespot.data_pipeline.stores.store_errors import Throttled

from .conftest import CONTENT


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0), ("nan", 0.0), ("1e9", LONGEST)]
)
def test_words(text, seconds):
    assert seconds_of(text) == seconds


def test_a_date():
    assert 25 < seconds_of(email.utils.formatdate(time.time() + 30, usegmt=True)) <= 30


def test_it_is_waited_for(store, faults):
    faults.retry_after = 0.4
    faults.inject("slowdown", times=2)  # the request, and the question how long
    begin = time.monotonic()
    assert store.read("some", 0, 5) == CONTENT[:5]
    assert time.monotonic() - begin >= 0.4 and faults.counts["slowdown"] == 2


def test_a_long_wait_is_for_whoever_has_patience(store, faults, monkeypatch):
    monkeypatch.setattr(object_store, "LONGEST_PAUSE", 0.1)
    faults.retry_after = 0.4
    faults.inject("slowdown", times=2)
    with pytest.raises(Throttled) as caught:
        store.read("some", 0, 5)
    assert caught.value.retry_after == 0.4
    faults.clear()
    faults.inject("slowdown", times=2)
    begin = time.monotonic()
    assert Patience(5.0).read("some", lambda: store.read("some", 0, 5)) == CONTENT[:5]
    assert time.monotonic() - begin >= 0.4
