"""ObjectStore on a real server, through a proxy that spoils answers: exact, or one line."""

import errno
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.foreign_json import ForeignJsonError
from eyespot.data_pipeline.patience import Patience, is_outage
from eyespot.data_pipeline.stores import object_store
from eyespot.data_pipeline.stores.open_store import open_store
from eyespot.data_pipeline.stores.store import Stat

from .conftest import CONTENT


def test_bytes_sizes_and_names(store):
    assert store.read("some", 5, 9) == CONTENT[5:9]
    assert store.read("some", 7, 299_999) == CONTENT[7:299_999], "parts"
    assert store.read("some") == store.read_whole("some", 300_000) == CONTENT
    assert store.read("some", 299_000) == CONTENT[299_000:]
    assert store.read("some", 9, 9) == b"" == store.read("empty") == store.read_whole("empty", 10)
    assert store.stat("some").size == 300_000 and store.stat("some").tag
    listed = dict(store.list())
    assert set(listed) == {"some", "empty", "deeper/one"} and listed["some"] == store.stat("some")
    assert set(dict(store.list("deeper"))) == {"deeper/one"}
    assert store.stats(["some", "none", "deeper/one"]) == {"some": listed["some"], "deeper/one": listed["deeper/one"]}
    with pytest.raises(FileNotFoundError):
        store.read("none")
    with pytest.raises(FileNotFoundError):
        store.stat("none")
    with pytest.raises(OSError, match="ends at byte 300,000") as caught:
        store.read("some", 299_999, 300_001)
    assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(OSError, match="shorter"):
        store.read("some", 400_000, 400_001)
    with pytest.raises(ForeignJsonError, match="over 1,000 bytes"):
        store.read_whole("some", 1000)


def test_put_and_another_process(store):
    store.put("made/now", b"abc")
    assert pickle.loads(pickle.dumps(store)).read("made/now") == b"abc"
    store.put("made/now", b"defg")
    assert store.read("made/now") == b"defg" and not store.is_changed("made/now"), "we replaced it ourselves"


def test_one_listing_says_the_sizes_of_all(store, faults):
    faults.clear()
    assert len(store.stats(["some", "empty", "deeper/one"])) == 3
    assert faults.counts["requests"] == 1


@pytest.mark.parametrize("kind", ["slowdown", "internal", "reset", "cut", "whole", "flip", "etag"])
def test_a_third_of_the_answers_is_spoilt(store, faults, kind):
    store.read("some", 0, 1)
    faults.inject(kind, 0.3)
    patience, firsts = Patience(60.0), range(0, 150_000, 10_000)

    def read(first: int) -> bytes:
        return patience.read("some", lambda: store.read("some", first, first + 150_000))

    with ThreadPoolExecutor(4) as pool:
        right = [
            found == CONTENT[first : first + 150_000]
            for first, found in zip(firsts, pool.map(read, firsts), strict=True)
        ]
    assert faults.counts[kind] > 0, "else nothing was shown"
    assert all(right) if kind != "flip" else not all(right), "who reads compares checksums"
    assert (store.num_retries > 0) == (kind not in ("flip", "etag")), "they were tried again"


def test_whole_objects_are_compared_with_their_tag(store, faults):
    faults.inject("flip", times=1)
    assert store.read_whole("some", 300_000) == CONTENT and faults.counts["flip"] == 1


def test_a_stall_ends(store, faults):
    faults.stall_seconds = 3.0
    faults.inject("stall", times=1)
    assert store.read("some", 0, 50_000) == CONTENT[:50_000] and store.num_retries == 1


@pytest.mark.parametrize(("seconds", "asked"), [(0.5, 1), (1.5, 2)])
def test_what_was_not_quick_is_not_tried_five_times(store, faults, monkeypatch, seconds, asked):
    monkeypatch.setattr(object_store, "QUICK_SECONDS", seconds)
    faults.stall_seconds = 3.0
    faults.inject("mute")
    with pytest.raises(OSError, match=r"the store does not go on \(timeout\)") as caught:
        store.read("some", 0, 9)
    assert is_outage(caught.value) and faults.counts["mute"] == asked


LINES = {
    "denied": r"s3://data/stores/some: denied \(403 AccessDenied\); ask its owner for access, or set AWS_ACCESS_KEY_ID",
    "expired": r"s3://data/stores/some: the credentials of AWS_ACCESS_KEY_ID of the environment have expired; renew",
    "skewed": r"s3://data/stores/some: denied, for this machine's clock is wrong \(403 RequestTimeTooSkewed\); set it",
    "region": r"s3://data/stores/some: the bucket lies in another region .*; set AWS_REGION",
    "whole": r"s3://data/stores/some: the server sends whole objects .*ignores Range",
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("how", ["read", "stat"])
def test_what_no_waiting_mends_is_one_line(store, faults, kind, how):
    if (kind, how) == ("whole", "stat"):
        assert store.stat("some").size == 300_000
        return
    faults.inject(kind)
    with pytest.raises(UserError, match=LINES[kind]) as caught:
        store.read("some", 0, 9) if how == "read" else store.stat("some")
    assert "\n" not in str(caught.value)
    if kind != "whole":
        assert faults.counts["requests"] <= 2, "it is not asked for again, but for the reason"


@pytest.mark.parametrize(
    ("kind", "number"), [("slowdown", errno.EAGAIN), ("internal", errno.EREMOTEIO), ("cut", errno.ECONNRESET)]
)
def test_what_may_pass_is_an_outage(store, faults, kind, number):
    faults.inject(kind)
    with pytest.raises(OSError) as caught:
        store.read("some", 0, 9)
    assert caught.value.errno == number and is_outage(caught.value)
    assert faults.counts["GET"] == object_store.TRIES


def test_a_bucket_that_is_not_there(store):
    for ask in (lambda store: store.stat("x"), lambda store: store.read("x"), lambda store: list(store.list())):
        with pytest.raises(UserError, match="there is no bucket 'nowhere'; see to the name, endpoint and region"):
            ask(open_store("s3://nowhere/folder"))


def test_a_replaced_object_is_noticed_once(store, store_server, caplog):
    assert store.read("some", 0, 3) == CONTENT[:3]
    store_server.put("stores/some", b"other" + CONTENT)
    with caplog.at_level(logging.WARNING):
        assert store.read("some", 0, 8) == b"other" + CONTENT[:3] and store.is_changed("some")
        assert store.read("some", 0, 5) == b"other"
    assert [record.getMessage() for record in caplog.records if "was replaced" in record.getMessage()] == [
        "s3://data/stores/some: was replaced since it was first looked at (another ETag); what is read of it counts"
        " while its checksums are right"
    ]
    assert not store.is_changed("empty")


def test_where_listing_is_denied_every_object_is_asked_for(store, faults):
    faults.inject("denied", keys="list-type=2")
    assert set(store.stats(["some", "none", "empty"])) == {"some", "empty"}
    assert store.stats(["empty"])["empty"] == Stat(0, store.stat("empty").tag)
