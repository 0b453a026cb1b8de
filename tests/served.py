"""A server of features in a thread of this process, and one of its own; and clients that speak HTTP to them."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyespot.cluster.serving.batching import Batches
from eyespot.cluster.serving.image_views import ImageViews
from eyespot.cluster.serving.prometheus import Metrics
from eyespot.cluster.serving.releases import served
from eyespot.cluster.serving.server import Limits, Server, Serving, server_of


@dataclass(kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def rows(self) -> np.ndarray:
        return np.load(io.BytesIO(self.body), allow_pickle=False)


@dataclass(kw_only=True)
class Client:
    port: int
    token: str | None = None

    def ask(self, path: str, body: bytes | None = None, kind: str = "image/png", **headers: str) -> Answer:
        said = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        said |= {"Content-Type": kind} if body is not None else {}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, said)
            got = connection.getresponse()
            return Answer(status=got.status, headers={k.lower(): v for k, v in got.getheaders()}, body=got.read())

    def embed(self, body: bytes, path: str = "/embed", **headers: str) -> np.ndarray:
        answer = self.ask(path, body, Accept="application/x-npy", **headers)
        assert answer.status == 200, answer.body
        return answer.rows()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextlib.contextmanager
def in_thread(
    release: Path,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    max_batch: int = 4,
    max_wait: float = 0.02,
    max_pixels: int = 1_000_000,
    view: Callable[[bytes], Any] | None = None,
) -> Iterator[tuple[Client, Server]]:
    """The real server on a real socket."""
    encoder, views, about = served(str(release), None, "cpu")
    metrics, limits = Metrics(), limits or Limits()
    seen = view or ImageViews(views, max_pixels)
    batches = Batches(
        encoder,
        seen,
        pixels=getattr(seen, "pixels", len),
        max_batch=max_batch,
        max_wait=max_wait,
        observe=metrics.encoded,
    )
    server = server_of(Serving(batches, about, limits, metrics, token).app(), limits)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Client(port=listener.getsockname()[1], token=token), server
    finally:
        server.should_exit = True
        thread.join(60)


@contextlib.contextmanager
def as_process(*words: str, **environment: str) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """``eyespot serve ... --port 0`` as a person starts it."""
    started = subprocess.Popen(
        [sys.executable, "-m", "eyespot", "serve", *words, "--port", "0", "--device", "cpu"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise AssertionError(line + started.communicate(timeout=60)[1])
        yield Client(port=int(found[1]), token=environment.get("EYESPOT_SERVE_TOKEN")), started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGKILL)
        started.communicate()


def picture(seed: int, size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    """An image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def multipart(*files: bytes) -> tuple[bytes, str]:
    """A body of several files, and its content type."""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + file + b"\r\n"
        for file in files
    ]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"
