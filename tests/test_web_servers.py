"""Web servers as they are: what can be read of them is read, and of the others one line says why not."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import is_outage
from eyespot.data_pipeline.shards.remote.verify import folders_in_store
from eyespot.data_pipeline.stores import clients, object_store
from eyespot.data_pipeline.stores.location import location_of
from eyespot.data_pipeline.stores.open_store import open_store

CONTENT = np.random.default_rng(0).integers(0, 256, 30_000, np.uint8).tobytes()
NOT_FOUND, REFUSED = 404, {"head_405": 405, "head_403": 403, "head_501": 501}


class Odd(http.server.BaseHTTPRequestHandler):
    """A server of one object, "f/some thing", with one oddity."""

    protocol_version = "HTTP/1.1"
    oddity, other, asked, paths = "", "", list[str](), ("/f/some%20thing",)

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}".rstrip())
        if self.path not in self.paths:
            self._say(NOT_FOUND)
        elif self.oddity in ("moved", "in_circles", "slow_down"):
            slow = self.oddity == "slow_down" and self.command == "GET"
            self._say(503 if slow else 302, Location=f"{self.other if self.oddity != 'in_circles' else ''}{self.path}")
        elif self.command == "HEAD" and self.oddity in REFUSED:
            self._say(REFUSED[self.oddity])
        else:
            self._give()

    do_HEAD = do_GET

    def _give(self) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if found is None or self.oddity == "whole":
            self._say(200, CONTENT, ETag='"1"')
            return
        start, end = int(found[1]), min(int(found[2]) + 1, len(CONTENT))
        body, shift = CONTENT[start:end], 7 if self.oddity == "elsewhere" else 0
        more = {"ETag": 'W/"1"' if self.oddity == "weak_tags" else '"1"'}
        if self.oddity == "encoded":
            body, more["Content-Encoding"] = body + b"more", "gzip"
        size = "*" if self.oddity == "unknown_length" else len(CONTENT)
        more["Content-Range"] = f"bytes {start + shift}-{end - 1 + shift}/{size}"
        if self.oddity == "chunked":
            more["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self._say(206, body, **more)

    def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., str]]:
    """``serve(oddity)``: the address of a new server."""
    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.001)
    running: list[http.server.ThreadingHTTPServer] = []

    def start(oddity: str, other: str = "", asked: list[str] | None = None, paths: tuple[str, ...] = Odd.paths) -> str:
        how = {"oddity": oddity, "other": other, "asked": [] if asked is None else asked, "paths": paths}
        kind = type("Kind", (Odd,), how)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
        server.daemon_threads, server.handle_error = True, lambda *of: None
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    clients.forget_clients()
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("oddity", ["", "moved", "weak_tags", "head_405", "head_403", "head_501"])
def test_what_can_be_read_is(serve, oddity):
    store = open_store(f"{serve(oddity, serve(''))}/f")
    assert store.stat("some thing").size == len(CONTENT)
    assert store.read("some thing", 5, 999) == CONTENT[5:999] and store.read_whole("some thing", 10**6) == CONTENT
    assert list(store.stats(["some thing", "missing"])) == ["some thing"]
    assert not store.is_changed("some thing")
    with pytest.raises(FileNotFoundError):
        store.stat("missing")


def test_the_splits_of_a_folder_are_found_without_a_list(serve):
    splits = tuple(f"/f/{split}/manifest.json" for split in ("train", "test"))
    place = location_of(f"{serve('', paths=splits)}/f")
    assert folders_in_store(place) == [place / "test", place / "train"]


@pytest.mark.parametrize(
    ("oddity", "line"),
    [
        ("whole", r"sends whole objects where a part is asked for \(it ignores Range\); take another server"),
        ("encoded", r"sends it encoded \(Content-Encoding: gzip\); take another server"),
        ("chunked", r"does not say how long its answers are \(no Content-Length\); take another server"),
        ("unknown_length", r"does not say how long an object is \(no length in Content-Range\); take another server"),
        ("elsewhere", "sends another range than was asked for; take another server"),
        ("in_circles", "redirects in a circle; see to the address"),
    ],
)
def test_what_cannot_is_one_line(serve, oddity, line):
    store = open_store(f"{serve(oddity)}/f")
    with pytest.raises(UserError, match=rf"^http://127\.0\.0\.1:\d+/f/some thing: the server {line}$"):
        store.read("some thing", 5, 999)


def test_of_a_server_that_has_given_ranges_an_odd_answer_may_pass(serve):
    store = open_store(f"{serve('')}/f")
    assert store.read("some thing", 0, 9) == CONTENT[:9]
    address = serve("chunked")
    store._client = open_store(f"{address}/f")._client
    with pytest.raises(OSError, match="does not say how long") as caught:
        store.read("some thing", 0, 9)
    assert is_outage(caught.value)


def test_a_token_goes_to_no_other_host(serve, monkeypatch):
    """The hub answers with the address of where its files lie, which has a signature of its own."""
    there, here = list[str](), list[str]()
    other = serve("", asked=there).replace("127.0.0.1", "localhost")
    monkeypatch.setattr(clients, "_hub", lambda bucket: (serve("moved", other, here), "hf_secret"))
    store = open_store("hf://datasets/user/name/f")
    assert store.read("some thing", 0, 9) == CONTENT[:9]
    assert here == ["GET /f/some%20thing Bearer hf_secret"] and there == ["GET /f/some%20thing"]


def test_nor_does_it_when_the_server_is_asked_how_long_to_wait(serve, monkeypatch):
    """A second question, by another client: HEAD, which is redirected."""
    there, here = list[str](), list[str]()
    other = serve("", asked=there).replace("127.0.0.1", "localhost")
    monkeypatch.setattr(clients, "_hub", lambda bucket: (serve_at, "hf_secret"))
    serve_at = serve("slow_down", other, here)
    monkeypatch.setattr(object_store, "TRIES", 1)
    with pytest.raises(OSError, match="asks for fewer requests"):
        open_store("hf://datasets/user/name/f").read("some thing", 0, 9)
    assert here[-1] == "HEAD /f/some%20thing Bearer hf_secret" and there == ["GET /f/some%20thing"]
