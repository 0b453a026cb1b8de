"""Azure's own emulator (Azurite): a run from it is that of the disk, and its errors are told apart.

It needs Node: npm install --prefix ANY azurite, and EYESPOT_AZURITE=ANY/node_modules/.bin/azurite-blob.
"""

import base64
import email.utils
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_store import free_ports
from streams import global_stream

from eyespot.cluster.cli import main
from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.blocks.open_blocks import NodeCache
from eyespot.data_pipeline.loading.loader import LoaderSpec
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores import clients
from eyespot.data_pipeline.stores.open_store import open_store

pytestmark = pytest.mark.thorough

AZURITE = os.environ.get("EYESPOT_AZURITE") or shutil.which("azurite-blob")
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every emulator, as Microsoft's pages tell it."""


@pytest.fixture
def azure(tmp_path, monkeypatch) -> Iterator[int]:
    """An emulator with the container "data", to which this process goes; its port."""
    if AZURITE is None:
        pytest.skip("no Azurite to test with: npm install azurite, and name its azurite-blob in EYESPOT_AZURITE")
    (port,) = free_ports(1)
    words = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--blobPort", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([AZURITE, *words], stdout=log, stderr=log, cwd=tmp_path)
    try:
        _wait(process, port)
        _make_container(port, "data")
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        clients.forget_clients()
        yield port
    finally:
        clients.forget_clients()
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < end, "Azurite did not start"
        time.sleep(0.1)


def _make_container(port: int, name: str) -> None:
    """By a request that is signed by hand: the client makes none."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    told = "".join(f"{header}:{value}\n" for header, value in headers.items())
    text = f"PUT{chr(10) * 12}{told}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signed = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signed}", "Content-Length": "0"}
    connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)
    assert connection.getresponse().status == 201
    connection.close()


def test_a_run_is_that_of_the_disk_and_errors_are_one_line(azure, digits, tmp_path, monkeypatch, caplog):
    digit_shards = digits / "train"
    store = open_store("az://data/some folder/digits")
    for path in digit_shards.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(digit_shards).as_posix(), path.read_bytes())
    views = ViewSpec(views=(RandomView(size=16),))

    def stream(place: Path | str) -> tuple:
        cache = None if isinstance(place, Path) else NodeCache(folder=tmp_path / "cache")
        spec = LoaderSpec(shards=ShardFolder(place), views=views, batch_size=48, num_threads=1, cache=cache)
        spec.shards.check()
        return global_stream(spec, 1, 40)

    assert stream("az://data/some folder/digits") == stream(digit_shards)

    def losses(place: Path | str, run_dir: Path) -> list[tuple[float, str]]:
        words = "mae_tiny --steps 4 --data.batch-size 32 --device cpu --no-track --picture-every 0 --log-every 1"
        assert main(["pretrain", *words.split(), "--data.shards", str(place), "--run-dir", str(run_dir)]) == 0
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return [(row["loss"], row["sample_digest"]) for row in rows]

    remote = losses("az://data/some folder/digits", tmp_path / "remote")
    assert len(remote) == 4 and remote == losses(digit_shards, tmp_path / "local")
    assert "was replaced" not in caplog.text, "the listing's tags have no quotes, those of the objects have"
    with pytest.raises(FileNotFoundError, match="no such object"):
        store.stat("nothing")
    with pytest.raises(UserError, match="az://nowhere/x/y: there is no bucket 'nowhere'; see to the name"):
        open_store("az://nowhere/x").read("y", 0, 3)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"another").decode())
    clients.forget_clients()
    with pytest.raises(UserError, match=r"denied \(403 AuthorizationFailure\); .* set AZURE_STORAGE_ACCOUNT_NAME"):
        open_store("az://data/some folder").stat("x")
