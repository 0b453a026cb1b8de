"""Tars in a real object store are indexed as those on a disk are."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from remote_store import STRANGER, STRANGERS_SECRET

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards import image_workers
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.remote import fetched_tars, index
from eyespot.data_pipeline.shards.remote.index import index_store
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores import clients
from eyespot.data_pipeline.stores.location import location_of


def image(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (9 + number % 3, 8, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    """Five tars of another tool, with labels, something broken, and what is no tar beside them."""
    folder = tmp_path_factory.mktemp("others") / "photos"
    (folder / "deeper").mkdir(parents=True)
    for number in range(5):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for row in range(40):
                key = f"{number}{row:03d}"
                data = b"no image" if (number, row) == (2, 7) else image(number * 40 + row)
                for name, content in ((f"{key}.cls", str(row % 3).encode()), (f"{key}.jpg", data)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    shutil.copy(folder / "00000.tar", folder / "deeper" / "0.tar")
    (folder / "more.tar.gz").write_bytes(b"")
    return folder


@pytest.fixture
def address(store_server, tars, faults, request) -> str:
    return store_server.put_folder(tars, f"to-index/{abs(hash(request.node.name))}/photos")


@pytest.fixture(scope="module")
def expected(tars, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "photos"
    shutil.copytree(tars, folder)
    index_folder(folder, workers=1)
    return folder


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".idx", ".npy", ".json")}


@pytest.mark.parametrize("room", [True, False])
def test_what_is_written_is_what_a_disk_gets(address, store_server, faults, expected, monkeypatch, room):
    if not room:
        monkeypatch.setattr(fetched_tars.FetchedTars, "__init__", little_room(fetched_tars.FetchedTars.__init__))
        monkeypatch.setattr(index, "CHUNK", 8)
        monkeypatch.setattr(image_workers, "CHUNK", 8)
    faults.clear()
    assert main(["shards", "index", address, "--workers", "1"]) == 0
    size = sum(path.stat().st_size for path in expected.glob("*.tar"))
    assert size < faults.counts["bytes"] < (1.3 if room else 2.3) * size
    below = address.removeprefix("s3://data/")
    assert {name: store_server.get(f"{below}/{name}") for name in made(expected)} == made(expected)
    shards = ShardFolder(address)
    assert shards.manifest.num_samples == 199 and len(shards.manifest.quarantined) == 1
    store_server.delete(f"{below}/deeper/0.tar")
    assert main(["shards", "verify", address]) == 0
    store_server.put(f"{below}/deeper/0.tar", b"")
    assert main(["shards", "index", address, "--workers", "1"]) == 0, "again"
    assert {name: store_server.get(f"{below}/{name}") for name in made(expected)} == made(expected)


def little_room(make):
    def init(self, *arguments):
        make(self, *arguments)
        self._keeps = False
        fetch = self.fetch

        def one_more(key):
            path = fetch(key)
            assert len(list(self.folder.glob("*.tar"))) <= 3, "else all are held"
            return path

        self.fetch = one_more

    return init


def test_spoilt_answers_change_nothing(address, store_server, faults, expected, monkeypatch):
    from eyespot.data_pipeline.stores import object_store

    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(object_store, "FIRST_THROTTLED", 0.002)
    for kind in ("internal", "cut", "reset", "slowdown"):
        faults.inject(kind, 0.3, keys=".tar", times=2)
    index_store(location_of(address), workers=1)
    assert store_server.get(f"{address.removeprefix('s3://data/')}/manifest.json") == made(expected)["manifest.json"]


def test_who_may_not_write_gets_a_folder(address, faults, expected, tmp_path, capsys):
    faults.inject("denied", keys="manifest.json")
    faults.inject("denied", keys=".idx")
    assert main(["shards", "index", address, "--workers", "1"]) == 2
    assert "denied (403 AccessDenied); write them to a folder, to be uploaded: --to DIR" in capsys.readouterr().err
    faults.clear()
    assert main(["shards", "index", address, "--workers", "1", "--to", str(tmp_path / "made")]) == 0
    assert made(tmp_path / "made") == made(expected)
    assert json.loads((tmp_path / "made" / "manifest.json").read_text())["name"] == "photos"
    assert "upload what is in" in capsys.readouterr().out


def test_what_is_not_possible_is_one_line(address, store_server, faults, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="http://host/photos: cannot be listed; download the folder"):
        index_store(location_of("http://host/photos"))
    with pytest.raises(UserError, match=r"s3://data/nothing-here: no \.tar files inside"):
        index_store(location_of("s3://data/nothing-here"))
    assert main(["shards", "index", str(tmp_path), "--to", str(tmp_path / "made")]) == 2
    monkeypatch.setattr(fetched_tars.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"do not fit .* set TMPDIR to a folder of a larger disk"):
        index_store(location_of(address))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", STRANGER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", STRANGERS_SECRET)
    clients.forget_clients()
    with pytest.raises(UserError, match="denied"):
        index_store(location_of(address))
