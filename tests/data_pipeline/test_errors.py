"""Wrong input: one line, and nothing that other code takes for its own error. What is an outage, whoever says it."""

import ast
import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import urllib3
from requests.adapters import HTTPAdapter
from requests.sessions import Session

from eyespot.data_pipeline.errors import UserError, is_network_outage

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, LookupError, TypeError])
def test_no_handler_of_another_error_swallows_it(kind):
    """Readers catch these to say "damaged"; a UserError inside would lose its words."""
    assert not issubclass(UserError, kind)


def raised() -> Iterator[tuple[str, ast.expr]]:
    """Where the four folders raise a UserError, and with what."""
    for folder in ("data_pipeline", "pretrain", "eval", "cluster"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                    assert len(node.args) == 1, f"{path}:{node.lineno}: one message"
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


def test_every_message_is_one_line():
    found = list(raised())
    assert len(found) > 200
    for place, message in found:
        texts = [part.value for part in ast.walk(message) if isinstance(part, ast.Constant)]
        assert not any(isinstance(text, str) and "\n" in text for text in texts), place


def test_a_network_that_fails_is_told_from_an_address_that_is_wrong():
    def said(error: BaseException, cause: BaseException | None = None) -> bool:
        error.__cause__ = cause
        return is_network_outage(error)

    assert said(ConnectionResetError()) and said(TimeoutError()) and said(OSError(errno.ENETUNREACH, "away"))
    assert said(FileNotFoundError(2, "not in the cache"), ConnectionRefusedError())
    assert said(socket.gaierror(socket.EAI_AGAIN, "later"))
    assert not said(socket.gaierror(socket.EAI_NONAME, "no such host"))
    assert not said(FileNotFoundError(2, "not in the cache"), socket.gaierror(socket.EAI_NONAME, "no such host"))
    assert not said(ssl.SSLCertVerificationError("not to be trusted")) and not is_network_outage("a word")


@pytest.mark.parametrize(("status", "outage"), [(503, True), (302, False)])
def test_a_client_that_asked_until_it_was_tired(status: int, outage: bool, answering: str):
    session, limits = Session(), urllib3.Retry(1, status_forcelist=[503], redirect=0)
    session.mount("http://", HTTPAdapter(max_retries=limits))
    session.max_redirects = 1
    with pytest.raises(IOError) as error:
        session.get(f"{answering}/{status}", timeout=10)
    assert is_network_outage(error.value) == outage


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
