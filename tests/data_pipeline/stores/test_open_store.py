"""What a location opens; a real web server that knows ranges, and one that does not."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.stores import clients, object_store
from eyespot.data_pipeline.stores.folder_store import FolderStore
from eyespot.data_pipeline.stores.object_store import ObjectStore
from eyespot.data_pipeline.stores.open_store import open_store

FILES = {"/shards/some": bytes(range(256)) * 10, "/datasets/me/mine/resolve/v1/shards/some": b"of the hub"}


class _Web(BaseHTTPRequestHandler):
    """Files with ranges; below /moved/ a redirect, as the hub answers; below /whole/ ranges are ignored."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        content = FILES.get(self.path.replace("/whole", "").replace("/moved", ""))
        if content is None or (self.path.startswith("/datasets") and self.headers["Authorization"] != "Bearer hf_me"):
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.startswith("/datasets"):
            self.send_response(302)
            self.send_header("Location", "/moved" + self.path.replace("/datasets", "/elsewhere"))
            FILES[self.path.replace("/datasets", "/elsewhere")] = content
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size, asked = len(content), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        ranged = asked is not None and "/whole" not in self.path
        if ranged and asked is not None:
            first, last = int(asked[1]), min(int(asked[2]), size - 1)
            content = content[first : last + 1]
        self.send_response(206 if ranged else 200)
        if ranged and asked is not None:
            self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(content) - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    clients.forget_clients()
    yield f"127.0.0.1:{server.server_address[1]}"
    clients.forget_clients()
    server.shutdown()
    server.server_close()


def test_paths_are_folders(tmp_path, store):
    assert isinstance(open_store(tmp_path), FolderStore) and isinstance(open_store(f"file://{tmp_path}"), FolderStore)
    assert isinstance(open_store("s3://bucket/x"), ObjectStore) and isinstance(
        open_store(Path("s3://b/x")), ObjectStore
    )


def test_a_web_server(web):
    store = open_store(f"http://{web}/shards")
    assert store.read("some", 250, 260) == FILES["/shards/some"][250:260]
    assert store.stat("some").size == 2560
    assert set(store.stats(["some", "none"])) == {"some"}
    with pytest.raises(FileNotFoundError):
        store.read("none", 0, 1)


def test_a_web_server_without_ranges_is_one_line(web, monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.001)
    with pytest.raises(UserError, match="it ignores Range"):
        open_store(f"http://{web}/whole/shards").read("some", 250, 260)


def test_the_hub(web, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://{web}")
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    store = open_store("hf://datasets/me/mine@v1/shards")
    assert store.read("some", 3, 10) == b"the hub" and store.stat("some").size == 10
