"""Files of a real object store on a disk of this machine."""

import hashlib

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.remote import fetched_tars as module
from eyespot.data_pipeline.shards.remote.fetched_tars import FetchedTars
from eyespot.data_pipeline.stores.open_store import open_store

CONTENT = {"one.tar": b"0123456789" * 1000, "two.tar": b"abc", "empty.tar": b""}


@pytest.fixture
def store(store_server, faults):
    for key, content in CONTENT.items():
        store_server.put(f"spool/{key}", content)
    return open_store("s3://data/spool")


@pytest.mark.parametrize("keeps", [True, False])
def test_files_are_those_of_the_store_and_stay_where_there_is_room(store, tmp_path, monkeypatch, keeps):
    monkeypatch.setattr(module, "CHUNK", 999)
    spool = FetchedTars(store, {key: len(content) for key, content in CONTENT.items()}, tmp_path)
    assert spool._keeps
    spool._keeps = keeps
    for _ in range(2):
        for key, content in CONTENT.items():
            assert spool.fetch(key).read_bytes() == content
            spool.drop(key)
            assert spool.path(key).exists() == keeps
    assert spool.digests == {key: hashlib.sha256(content).hexdigest() for key, content in CONTENT.items()}


def test_a_file_that_is_another_one_the_second_time_is_said(store, store_server, tmp_path):
    spool = FetchedTars(store, {"one.tar": 10_000}, tmp_path)
    spool.fetch("one.tar").unlink()
    store_server.put("spool/one.tar", b"9876543210" * 1000)
    with pytest.raises(UserError, match=r"s3://data/spool/one.tar: was replaced while it was read; begin again"):
        spool.fetch("one.tar")
