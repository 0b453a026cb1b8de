"""Server: HTTP that only ever reads. What it answers comes from ``pages.py`` and ``curves.py``.

Each request has a connection and a thread of its own; there are at most so many, none lasts longer than two minutes,
and whoever is slow loses first.
"""

import contextlib
import gzip
import hashlib
import logging
import math
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from eyespot.cluster.web.access import Access
from eyespot.cluster.web.answers import Answer, NotFound
from eyespot.cluster.web.pages import Pages

log = logging.getLogger("eyespot")

MOST_CONNECTIONS = 64
LONGEST_SECONDS = 120.0
"""Of a connection; and a sixth of it for its head."""
LONGEST_ADDRESS = 16384
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
_GONE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError)
_PORTS = range(7373, 7393)


class Server(ThreadingHTTPServer):
    """Listens, and answers with pages.

    Args:
        pages: what is shown.
        access: who may see it.
        host: that is listened on.
        port: 0 = any free one, None = the first free one of a few.

    Raises:
        OSError: the host is none of this machine's, or the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, pages: Pages, access: Access, host: str, port: int | None) -> None:
        self.pages, self.access = pages, access
        self._open: dict[socket.socket, float] = {}
        """When each began; never, of those that were cut off and whose threads have not noticed yet."""
        self._changed = threading.Condition()
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        ports = (*_PORTS, 0) if port is None else (port,)
        for number in ports:
            try:
                super().__init__((str(address[0]), number), Handler)
                return
            except OSError:
                if number == ports[-1]:
                    raise

    @property
    def port(self) -> int:
        """That it listens on."""
        return self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for it. Where too many are open, the oldest one is cut off."""
        with self._changed:
            living = [one for one, since in self._open.items() if since < math.inf]
            if len(living) >= MOST_CONNECTIONS:
                self._cut(min(living, key=lambda one: self._open[one]))
            # Threads end when they notice; one that hangs at a disk does not.
            crowded = not self._changed.wait_for(lambda: len(self._open) < 2 * MOST_CONNECTIONS, timeout=1.0)
            if not crowded:
                self._open[request] = time.monotonic() - LONGEST_SECONDS * 5 / 6
        if crowded:
            return self.shutdown_request(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        with self._changed:
            self._open.pop(request, None)
            self._changed.notify()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second: cuts off what lasts too long, a byte now and then notwithstanding."""
        now = time.monotonic()
        with self._changed:
            for request in [one for one, since in self._open.items() if now - since > LONGEST_SECONDS]:
                self._cut(request)

    def head_is_read(self, request: Any) -> None:
        """From now on the connection has the time of an answer; it is born older than it is."""
        with self._changed:
            if self._open.get(request, math.inf) < math.inf:
                self._open[request] = time.monotonic()

    def _cut(self, request: socket.socket) -> None:
        self._open[request] = math.inf
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of a thread: what a client does is not our trouble."""
        log.debug("a connection ended", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = 20.0
    server_version, sys_version = "eyespot", ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # any other method
            return self._refuse_method
        raise AttributeError(name)

    def do_GET(self) -> None:
        """Reads."""
        self.server.head_is_read(self.request)
        try:
            self._answer()
        except _GONE:
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses may hold the token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is not even HTTP."""
        self._send(Answer.text(HTTPStatus(code), message or HTTPStatus(code).phrase))

    def _refuse_method(self) -> None:
        refusal = Answer.text(HTTPStatus.METHOD_NOT_ALLOWED, "These pages can only be read: GET and HEAD.")
        self._send(refusal, {"Allow": "GET, HEAD"})

    def _answer(self) -> None:
        access = self.server.access
        if not access.knows_host(self.headers.get("Host")):
            words = "This host name is not known here; use localhost, or the address that eyespot web has printed."
            return self._send(Answer.text(HTTPStatus.FORBIDDEN, words))
        if len(self.path) > LONGEST_ADDRESS:
            return self._send(Answer.text(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long."))
        try:
            parts = urlsplit(self.path)
            query = parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape", max_num_fields=200)
        except ValueError:
            return self._send(Answer.text(HTTPStatus.BAD_REQUEST, "The address cannot be read."))
        if access.token is not None and any(name == "token" and access.is_token(value) for name, value in query):
            return self._let_in(parts.path, [pair for pair in query if pair[0] != "token"])
        if not access.admits(
            "; ".join(self.headers.get_all("Cookie", [])), self.headers.get("Authorization"), self._cookie
        ):
            words = "These pages ask for a token: open the address that eyespot web has printed when it began."
            return self._send(Answer.text(HTTPStatus.UNAUTHORIZED, words), {"WWW-Authenticate": "Bearer"})
        self._send(self._page(parts.path, query))

    def _page(self, path: str, query: list[tuple[str, str]]) -> Answer:
        try:
            return self.server.pages.answer(path, query)
        except NotFound as error:
            return Answer.text(HTTPStatus.NOT_FOUND, str(error))
        except Exception:
            log.warning("eyespot web: a page could not be made", exc_info=True)
            return Answer.text(HTTPStatus.INTERNAL_SERVER_ERROR, "This page could not be made; the terminal says why.")

    @property
    def _cookie(self) -> str:
        """Its name: cookies do not tell ports apart."""
        return f"eyespot_{self.server.port}"

    def _let_in(self, path: str, query: list[tuple[str, str]]) -> None:
        """The token leaves the address for a cookie."""
        place = (path.rsplit("/", 1)[-1] or ".") + (f"?{urlencode(query, errors='surrogateescape')}" if query else "")
        cookie = f"{self._cookie}={self.server.access.token}; HttpOnly; SameSite=Lax; Path=/"
        answer = Answer.text(HTTPStatus.SEE_OTHER, "")
        self._send(answer, {"Location": f"./{place}" if place != "." else "./", "Set-Cookie": cookie})

    def _send(self, answer: Answer, more: dict[str, str] | None = None) -> None:
        body, asked = answer.body, getattr(self, "headers", None) or {}
        headers = {**_HEADERS, "Content-Type": answer.kind, **(more or {})}
        status = answer.status
        if status == HTTPStatus.OK:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            if asked.get("If-None-Match") == headers["ETag"]:
                status, body = HTTPStatus.NOT_MODIFIED, b""
        if len(body) > 1024 and not answer.kind.startswith("image/") and "gzip" in asked.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body, 3, mtime=0), "gzip"
        headers["Vary"] = "Accept-Encoding"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
