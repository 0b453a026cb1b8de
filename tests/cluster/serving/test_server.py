"""The server over real HTTP: the features of eyespot.embed, and every limit."""

import contextlib
import io
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from served import Client, in_thread, multipart, picture
from starlette.applications import Starlette

import eyespot
from eyespot.cluster.serving import server as http
from eyespot.cluster.serving.server import Limits

BOUND = 1e-6
"""Of the largest feature: what a batch of another size may change."""
SECRET = "s3cret-of-many-letters"


def of_embed(release: Path, files: list[bytes], tmp_path: Path, kind: str = "") -> np.ndarray:
    """Computed as ``eyespot eval`` does, from files."""
    paths = [tmp_path / f"{number}.img" for number in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    return np.asarray(eyespot.embed(str(release), paths, kind=kind, device="cpu"))


def upside_down() -> bytes:
    """A JPEG that viewers turn, whose pixels are not square."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture(9, (50, 20)))).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_the_features_of_embed_for_each_of_many_at_once(release: Path, tmp_path: Path):
    files = [picture(seed, (20 + seed, 45 - seed), form) for seed in range(4) for form in ("PNG", "JPEG", "WEBP")]
    files.append(upside_down())
    wanted = of_embed(release, files, tmp_path, "mean")
    with in_thread(release) as (client, _):
        alone = np.concatenate([client.embed(file, "/embed?kind=mean") for file in files])
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda file: client.embed(file, "/embed?kind=mean"), files * 3))
        together = np.concatenate(found)
        sizes = client.ask("/metrics").body.decode()
        assert client.ask("/embed", files[0]).json()["kind"] == "cls"
        body, kind = multipart(*files)
        answer = client.ask("/embed?kind=mean", body, kind)
    largest = np.abs(wanted).max()
    for rows in (alone, together[: len(files)], together[len(files) : 2 * len(files)], answer.json()["features"]):
        assert np.abs(np.asarray(rows, np.float32) - wanted).max() <= BOUND * largest
    assert found[0].shape == (1, 64) and found[0].dtype == np.float32
    batches = int(re.search(r"eyespot_batch_images_count (\d+)", sizes)[1])
    assert len(files) < batches < 4 * len(files), "those at once shared batches"
    assert f'eyespot_requests_total{{status="200"}} {4 * len(files)}' in sizes
    assert "eyespot_batch_images_sum 52" in sizes and "eyespot_in_flight 0" in sizes


@pytest.mark.parametrize(("max_batch", "bound"), [(4, BOUND), (1, 0.0)])
def test_what_company_changes(release: Path, max_batch: int, bound: float):
    """Rounding at most; and not a bit where no images share a batch."""
    file = picture(1)
    with in_thread(release, max_batch=max_batch, max_wait=0.5) as (client, _):
        alone = client.embed(file)
        for count in (2, 3, 4):
            body, kind = multipart(*[file, *map(picture, range(count - 1))])
            rows = client.ask("/embed", body, kind, Accept="application/x-npy").rows()
            assert rows.shape == (count, 64) and np.abs(rows[0] - alone[0]).max() <= bound * np.abs(alone).max()


def test_an_answer_waits_for_no_acknowledgement(release: Path):
    """Nagle's algorithm and delayed acknowledgements would cost 40 ms an answer where a connection is kept."""
    with in_thread(release) as (client, server), contextlib.closing(HTTPConnection("127.0.0.1", client.port)) as kept:
        kept.request("GET", "/info")
        kept.getresponse().read()
        (held,) = server.server_state.connections
        assert held.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_it_says_of_itself(release: Path):
    with in_thread(release) as (client, _):
        assert client.ask("/health").body == b"ready\n"
        about = client.ask("/info").json()
        assert (about["name"], about["kinds"], about["image_size"]) == ("digits-run", {"cls": 64, "mean": 64}, 16)
        for path, status, reason in (("/elsewhere", 404, "Not Found"), ("/embed", 405, "Method Not Allowed")):
            answer = client.ask(path)
            assert (answer.status, answer.json()) == (status, {"error": reason})


def refused(client: Client, body: bytes, kind: str = "image/png", path: str = "/embed") -> tuple[int, str]:
    answer = client.ask(path, body, kind)
    assert "\n" not in answer.json()["error"]
    return answer.status, answer.json()["error"]


def test_wrong_input(release: Path):
    limits = Limits(body_bytes=100_000, pixels=10_000)
    with in_thread(release, limits=limits, max_pixels=10_000) as (client, _):
        good = picture(1)
        assert refused(client, b"") == (400, "there is no image in it")
        assert refused(client, b"garbage" * 9) == (422, "not an image of a known format")
        assert refused(client, good[: len(good) // 2])[0] == 422
        assert refused(client, picture(1, (101, 100), "WEBP"))[0] == 422  # too many pixels
        assert refused(client, bytes(100_001)) == (413, "more than 100,000 bytes")
        assert refused(client, good, "text/plain")[0] == 415
        assert refused(client, good, path="/embed?kind=a%0Ab") == (400, "kind: must be one of cls, mean")
        body, kind = multipart(good, b"\x1b[31mno image", good)
        assert refused(client, body, kind) == (422, "image 1: not an image of a known format")
        many, _ = multipart(*[good] * 9)  # of 1,200 pixels each
        said = "more than 0.01 megapixels in all (--max-megapixels); send several requests"
        assert refused(client, many, kind) == (422, said)
        assert refused(client, body, "multipart/form-data")[0] == 400
        assert refused(client, body[:-9], kind)[0] == 400
        assert client.embed(good).shape == (1, 64)


def test_a_server_that_fails_says_so_and_goes_on(release: Path, caplog: pytest.LogCaptureFixture):
    def fails(file: bytes) -> torch.Tensor:
        if file == b"broken":
            raise RuntimeError("CUDA out of memory\nat 0x7f")
        return torch.full((3, 16, 16), float("nan") if file == b"nan" else 0.5)

    with in_thread(release, view=fails) as (client, _):
        for file in (b"broken", b"nan"):  # JSON knows no NaN
            assert refused(client, file) == (500, "the server failed; its log says why")
        assert client.embed(b"fine").shape == (1, 64)
        said = client.ask("/metrics").body.decode()
    assert 'eyespot_requests_total{status="500"} 2' in said and "eyespot_request_seconds_count 3" in said
    assert "eyespot_in_flight 0" in said and "CUDA out of memory" in caplog.text


def test_who_may_ask(release: Path):
    file = picture(1)
    with in_thread(release, token=SECRET) as (client, _):
        assert client.embed(file).shape == (1, 64)
        for token in (None, "", SECRET + "x", SECRET[:-1], "ü" * 20):
            stranger = Client(port=client.port)
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            answer = stranger.ask("/embed", file, **headers)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert stranger.ask("/info", **headers).status == stranger.ask("/metrics", **headers).status == 401
            assert stranger.ask("/health", **headers).status == 200
    with in_thread(release) as (client, _):
        assert client.ask("/embed", file, Host="evil.example:80").status == 403
        assert client.ask("/embed", file, Host=f"localhost:{client.port}").status == 200
        body, kind = multipart(file)  # as a form of a page may send it, unasked
        for origin in ("https://evil.example", "null", "http://localhost:8888", f"https://127.0.0.1:{client.port}"):
            assert client.ask("/embed", body, kind, Origin=origin).status == 403
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            assert client.ask("/info", Sec_Fetch_Site=site).status == status
        assert client.ask("/embed", body, kind, Origin=f"http://127.0.0.1:{client.port}").status == 200


def test_more_requests_than_it_takes(release: Path):
    go, begun = threading.Event(), threading.Event()

    def held(file: bytes) -> torch.Tensor:
        begun.set()
        go.wait(30)
        return torch.zeros(3, 16, 16)

    with in_thread(release, limits=Limits(requests=2), view=held) as (client, _), ThreadPoolExecutor(2) as pool:
        first = [pool.submit(client.embed, picture(1)) for _ in range(2)]
        begun.wait(30)
        while "eyespot_in_flight 2" not in client.ask("/metrics").body.decode():
            time.sleep(0.01)
        answer = client.ask("/embed", picture(1))
        assert answer.status == 503 and answer.headers["retry-after"] == "1"
        assert client.ask("/health").status == 200
        go.set()
        assert [each.result().shape for each in first] == [(1, 64)] * 2


def test_slow_clients_and_slow_images(release: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "HEADER_SECONDS", 0.3)
    go = threading.Event()

    def endless(file: bytes) -> torch.Tensor:
        go.wait(30)
        return torch.zeros(3, 16, 16)

    with in_thread(release, limits=Limits(seconds=0.4), view=endless) as (client, _):
        try:
            for sent in (b"", b"POST /embed HTTP/1.1\r\nHost: localhost\r\n"):
                with client.connect() as connection:
                    connection.sendall(sent)
                    assert connection.recv(100) == b"", "a header that never ends"
            with client.connect() as connection:
                head = (
                    b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 900\r\n\r\n"
                )
                connection.sendall(head + b"abc")
                assert connection.recv(100).startswith(b"HTTP/1.1 408")
            answer = client.ask("/embed", picture(1))
            assert answer.status == 504 and "0.4 seconds" in answer.json()["error"]
        finally:
            go.set()


def test_many_images_keep_nobody_waiting_and_end_with_their_client(release: Path):
    begun, go, seen = threading.Event(), threading.Semaphore(0), list[bytes]()

    def held(file: bytes) -> torch.Tensor:
        seen.append(file)
        begun.set()
        go.acquire(timeout=30)
        return torch.zeros(3, 16, 16)

    body, kind = multipart(*[b"many"] * 60)
    head = f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with in_thread(release, view=held) as (client, _), ThreadPoolExecutor(1) as pool:
        try:
            with client.connect() as connection:
                connection.sendall(head.encode() + body)
                assert begun.wait(30)
                one = pool.submit(client.embed, b"one")
                while "eyespot_in_flight 2" not in client.ask("/metrics").body.decode():
                    time.sleep(0.01)
                time.sleep(0.1)
                go.release(3)
                assert one.result(30).shape == (1, 64) and seen[:2] == [b"many", b"one"] and len(seen) <= 4
            while "eyespot_in_flight 0" not in client.ask("/metrics").body.decode():
                time.sleep(0.01)
        finally:
            go.release(100)
        client.embed(b"last")
        assert len(seen) <= 6 and seen[-1] == b"last", "nothing more is made for whoever went away"
        assert 'eyespot_requests_total{status="499"} 1' in client.ask("/metrics").body.decode()


def narrow(client: Client, room: int = 2304) -> socket.socket:
    """A connection whose client has room for little of an answer until it reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    connection.connect(("127.0.0.1", client.port))
    return connection


def test_clients_that_take_no_answer(release: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "HEADER_SECONDS", 0.3)
    body, kind = multipart(*[b"x"] * 64)
    head = f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    wide = head.encode() + b"%s\r\n" + body
    with in_thread(release, limits=Limits(seconds=1.0), view=lambda _: torch.ones(3, 16, 16)) as (client, server):
        server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        state = server.server_state
        held = [narrow(client) for _ in range(3)]
        while len(state.connections) < 3:
            time.sleep(0.01)
        held[0].sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 150)  # whoever writes more waits
        held[1].sendall(wide % b"")  # the end of an idle connection waits
        held[2].sendall(wide % b"Connection: close\r\n")  # the end waits that it asked for
        until = time.monotonic() + 8
        while (state.connections or state.tasks) and time.monotonic() < until:
            time.sleep(0.05)
        assert not state.connections and not state.tasks
        for connection in held:
            connection.close()
        patient = narrow(client, 32768)
        patient.sendall(wide % b"")
        time.sleep(0.5)  # longer than a connection may be idle
        answer = b""
        with patient:
            while part := patient.recv(65536):
                answer += part
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["features"]) == 64


def test_more_connections_than_it_takes(release: Path):
    with in_thread(release, limits=Limits(connections=3)) as (client, _):
        held = [client.connect() for _ in range(3)]
        time.sleep(0.1)
        with client.connect() as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 503")
        for connection in held:
            connection.close()
        time.sleep(0.1)
        assert client.ask("/health").status == 200


@pytest.mark.parametrize("seconds", [0.01, 0.4, 30.0])
def test_its_end_waits_for_body_answer_and_reader(seconds: float):
    waits = http.server_of(Starlette(), Limits(seconds=seconds)).config.timeout_graceful_shutdown
    assert waits is not None and 3 * seconds <= waits < 3 * seconds + 1


def test_it_ends_when_all_are_answered(release: Path):
    go, begun = threading.Event(), threading.Event()

    def held(file: bytes) -> torch.Tensor:
        begun.set()
        go.wait(30)
        return torch.zeros(3, 16, 16)

    with ThreadPoolExecutor(1) as pool:
        with in_thread(release, view=held) as (client, server):
            waiting = pool.submit(client.embed, picture(1))
            begun.wait(30)
            server.should_exit = True
            time.sleep(0.3)
            with pytest.raises(OSError):
                client.ask("/health")
            go.set()
        assert waiting.result().shape == (1, 64)
