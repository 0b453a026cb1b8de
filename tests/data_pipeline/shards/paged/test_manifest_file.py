import hashlib
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.shards.paged.file_sizes import MissingShards
from eyespot.data_pipeline.shards.paged.manifest_file import read_manifest, version_file
from eyespot.data_pipeline.stores.open_store import open_store

OLD, NEW = b'{"old": 1}', b'{"new": 1}'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_earlier_manifest_is_found_by_its_digest(tmp_path: Path):
    store, patience = open_store(tmp_path), Patience(1.0)
    with pytest.raises(MissingShards, match="missing"):
        read_manifest(tmp_path, store, patience)
    (tmp_path / "manifest.json").write_bytes(NEW)
    (tmp_path / version_file(sha256(OLD))).write_bytes(OLD)
    assert read_manifest(tmp_path, store, patience) == (tmp_path / "manifest.json", NEW)
    assert read_manifest(tmp_path, store, patience, sha256(NEW))[1] == NEW
    assert read_manifest(tmp_path, store, patience, sha256(OLD)) == (tmp_path / version_file(sha256(OLD)), OLD)
    for never in ("0" * 64, "../" + "0" * 61, sha256(OLD)[:12] + "0" * 52):  # nor one whose first digits are the same
        assert read_manifest(tmp_path, store, patience, never)[1] == NEW
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(UserError, match="unreadable"):
        read_manifest(tmp_path, store, patience)
