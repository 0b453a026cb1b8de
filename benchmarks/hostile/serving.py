"""A web server of the hostile kind, in a process of its own; it ends with the case."""

import contextlib
import http.server
import os
import socket
import time
from collections.abc import Callable

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def served(answer: Answer) -> str:
    """Starts a server on this machine that gives every GET to ``answer``; returns its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    if os.fork() == 0:
        server.serve_forever()
    server.socket.close()
    return f"http://127.0.0.1:{server.server_address[1]}"


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def plain(content: bytes, code: int = 200, **headers: str) -> Answer:
    """Always the same answer. Header names have _ for -; Content-Length is right unless given; "" leaves it out."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        told = {"Content_Length": str(len(content)), **headers}
        for name, value in told.items():
            if value:
                request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def files(held: dict[str, bytes]) -> Answer:
    """A folder; what is not there gets 404."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        content = held.get(request.path.rpartition("/")[2])
        plain(content or b"", 404 if content is None else 200)(request)

    return answer


def dripping(content: bytes, pause: float) -> Answer:
    """One byte now and then."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for place in range(len(content)):
            request.wfile.write(content[place : place + 1])
            request.wfile.flush()
            time.sleep(pause)

    return answer


def endless(request: http.server.BaseHTTPRequestHandler) -> None:
    """Zeros until the other side has had enough."""
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(bytes(1 << 20))


def raw(answer: bytes) -> Answer:
    """Bytes that are no HTTP, or odd HTTP."""
    return lambda request: (request.wfile.write(answer), None)[1]
