"""What is an outage, by whatever library it comes, and what would fail again."""

import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import urllib3
from requests.adapters import HTTPAdapter
from requests.sessions import Session

from eyespot.data_pipeline.network_errors import is_outage


def test_a_network_that_fails_is_told_from_an_address_that_is_wrong():
    def said(error: BaseException, cause: BaseException | None = None) -> bool:
        error.__cause__ = cause
        return is_outage(error)

    assert said(ConnectionResetError()) and said(TimeoutError()) and said(OSError(errno.ENETUNREACH, "away"))
    assert said(FileNotFoundError(2, "not in the cache"), ConnectionRefusedError())
    assert said(socket.gaierror(socket.EAI_AGAIN, "later"))
    assert not said(socket.gaierror(socket.EAI_NONAME, "no such host"))
    assert not said(FileNotFoundError(2, "not in the cache"), socket.gaierror(socket.EAI_NONAME, "no such host"))
    assert not said(ssl.SSLCertVerificationError("not to be trusted")) and not is_outage("a word")


@pytest.mark.parametrize(("status", "outage"), [(503, True), (302, False)])
def test_a_client_that_asked_until_it_was_tired(status: int, outage: bool, answering: str):
    session, limits = Session(), urllib3.Retry(1, status_forcelist=[503], redirect=0)
    session.mount("http://", HTTPAdapter(max_retries=limits))
    session.max_redirects = 1
    with pytest.raises(IOError) as error:
        session.get(f"{answering}/{status}", timeout=10)
    assert is_outage(error.value) == outage


@pytest.fixture
def answering() -> Iterator[str]:
    """A server that answers with the status that is asked for, and sends to itself."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(int(self.path[1:]))
            self.send_header("Location", self.path)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
