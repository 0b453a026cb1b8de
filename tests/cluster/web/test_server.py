"""What the server answers, and what it refuses, over real connections."""

import gzip
import http.client
import socket
import threading
import time

import pytest
from watched_runs import begin_run

from eyespot.cluster.web import server as server_file
from eyespot.cluster.web.access import Access
from eyespot.cluster.web.pages import Pages
from eyespot.cluster.web.run_list import RunList
from eyespot.cluster.web.server import Server


@pytest.fixture
def start(tmp_path):
    begin_run(tmp_path / "runs" / "first")
    started = []

    def begin(**access) -> Server:
        server = Server(Pages(RunList([tmp_path / "runs"])), Access("127.0.0.1", **access), "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        started.append((server, thread))
        return server

    yield begin
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def raw(server, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_pages_may_do_nothing_but_show(start):
    server = start()
    for path in (
        "/",
        "/run?run=first",
        "/curves.json?run=first&name=loss",
        "/static/live.js",
        "/static/uPlot.min.js",
        "/none",
    ):
        answer, body = ask(server, path)
        assert answer.status == (404 if path == "/none" else 200) and body
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert (
            answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Referrer-Policy"] == "no-referrer"
        )
        assert "no-cache" in answer.headers["Cache-Control"] and "Access-Control-Allow-Origin" not in answer.headers


def test_only_get_and_head(start):
    server = start()
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
        answer, _ = ask(server, "/", method)
        assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD"
    answer, body = ask(server, "/", "HEAD")
    assert answer.status == 200 and body == b"" and int(answer.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../../cli.py", "/static/..%2fserver.py", "//etc/passwd",
     "/picture?run=first&name=../run.json", "/picture?run=first&name=%2Fetc%2Fpasswd", "/picture?run=../..&name=x.png",
     "/run?run=%ff%fe", "/run?run=..%00"],
)  # fmt: skip
def test_no_path_leaves_the_runs(start, path):
    answer, body = ask(start(), path)
    assert answer.status == 404 and b"root:" not in body and len(body) < 200


def test_a_stranger_s_name_for_this_machine_is_refused(start):
    server = start()
    assert ask(server, Host="evil.com")[0].status == 403 and ask(server, Host="localhost:1")[0].status == 200
    assert b" 403 " in raw(server, b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000]
)
def test_what_is_no_request(start, sent):
    server = start()
    assert b"Traceback" not in raw(server, sent + b"\r\n\r\n")
    assert ask(server)[0].status == 200
    assert ask(server, "/?" + "a=1&" * 300)[0].status == 400 and ask(server, "/?q=" + "a" * 20_000)[0].status == 414


def test_the_token_moves_from_the_address_into_a_cookie(start, capfd):
    server = start(with_token=True)
    token = server.access.token
    assert ask(server)[0].status == 401 and ask(server, "/?token=wrong")[0].status == 401
    assert ask(server, "/static/live.js")[0].status == 401
    answer, body = ask(server, f"/run?run=first&token={token}")
    cookie = answer.headers["Set-Cookie"]
    assert answer.status == 303 and answer.headers["Location"] == "./run?run=first"
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and token.encode() not in body
    assert ask(server, "/run?run=first", Cookie=cookie.split(";")[0])[0].status == 200
    assert ask(server, "/", Authorization=f"Bearer {token}")[0].status == 200
    assert ask(server, "/", Cookie=f"eyespot_{server.port}=x")[0].status == 401
    captured = capfd.readouterr()
    assert token not in captured.out + captured.err


def test_what_has_not_changed_is_not_sent_again(start):
    server = start()
    answer, plain = ask(server, "/static/page.css")
    assert ask(server, "/static/page.css", If_None_Match=answer.headers["ETag"])[0].status == 304
    packed, body = ask(server, "/static/page.css", Accept_Encoding="gzip")
    assert (
        packed.headers["Content-Encoding"] == "gzip" and gzip.decompress(body) == plain and len(body) < len(plain) / 2
    )


def test_slow_clients_lose_and_the_others_are_answered(start, monkeypatch):
    monkeypatch.setattr(server_file, "MOST_CONNECTIONS", 8)
    server = start()
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.0\r\nHos")  # and never the rest
    for _ in range(3):
        assert ask(server)[0].status == 200
    assert threading.active_count() < 40
    slow[0].settimeout(10)
    assert slow[0].recv(100) == b""  # the oldest was cut off
    monkeypatch.setattr(server_file, "LONGEST_SECONDS", 0.0)
    slow[-1].settimeout(10)
    assert slow[-1].recv(100) == b""  # and the newest too, as its time is over
    for connection in slow:
        connection.close()
    end = time.monotonic() + 10
    while server._open and time.monotonic() < end:
        time.sleep(0.02)
    assert not server._open


def test_a_page_that_cannot_be_made_is_said_and_nothing_else_told(start, monkeypatch):
    server = start()
    monkeypatch.setattr(server.pages, "answer", lambda path, pairs: 1 / 0)
    answer, body = ask(server)
    assert answer.status == 500 and b"ZeroDivision" not in body


def test_the_next_free_port(start, monkeypatch):
    taken = start().port
    monkeypatch.setattr(server_file, "_PORTS", range(taken, taken + 1))
    pages = Pages(RunList([]))
    with Server(pages, Access("127.0.0.1"), "127.0.0.1", None) as other:
        assert other.port != taken
    with pytest.raises(OSError):
        Server(pages, Access("127.0.0.1"), "127.0.0.1", taken)
