"""The stores of several sources, behind one face."""

from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.mixtures.mixed_store import MixedStore
from eyespot.data_pipeline.stores.open_store import open_store


def test_keys_lead_to_their_source(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tar").write_bytes(name.encode() * 5)
    store = MixedStore(tmp_path, [open_store(tmp_path / name) for name in ("a", "b")])
    assert store.read("1/x.tar", 1, 3) == b"bb" and store.read_whole("0/x.tar", 99) == b"aaaaa"
    assert store.place("1/x.tar") == tmp_path / "b" / "x.tar" and store.stat("0/x.tar").size == 5
    assert set(store.stats(["0/x.tar", "1/x.tar", "1/y.tar"])) == {"0/x.tar", "1/x.tar"}
    assert [key for key, _ in store.list()] == ["0/x.tar", "1/x.tar"]
    store.put("1/y.tar", b"new")
    assert (tmp_path / "b" / "y.tar").read_bytes() == b"new" and not store.is_changed("1/y.tar")
    assert not store.is_remote


def test_tars_are_read_by_key_or_by_number(digit_shards, photo_shards):
    mixed = find_shards(f"{digit_shards}:1,{photo_shards}:1")
    for sample in (3, 1500):
        tar, offset, size = mixed.index[["tar", "offset", "size"]][sample].item()
        expected = mixed.read_tar(tar, offset, size)
        assert mixed.store.read(mixed.tar_key(tar), offset, offset + size) == expected
        assert len(expected) == size
