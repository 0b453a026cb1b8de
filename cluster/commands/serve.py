"""``eyespot serve RELEASE``."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import one_line

TOKEN = "EYESPOT_SERVE_TOKEN"
_SHORTEST = 16
"""Characters of a token."""
_BACKLOG = 256


@dataclass(kw_only=True, slots=True)
class Serving:
    """Features of images over HTTP, by a release that is verified first.

    POST an image to /embed (image/jpeg, image/png, image/webp, ...), or up to 64 as multipart/form-data: the answer is
    JSON, or an array with Accept: application/x-npy; ?kind=mean chooses among the encoder's kinds of features. Pixels
    and features are those of eyespot.embed. GET /health, /info, /metrics (Prometheus).

    It listens to this machine only. Any other --host asks for a token of 16 characters or more in the environment
    variable EYESPOT_SERVE_TOKEN, which clients send as Authorization: Bearer; the way there is not encrypted.

    SIGTERM or Ctrl-C: what is in flight is answered first. docs/serving.md says more.

    For example:

    eyespot serve runs/first/release

    curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" http://127.0.0.1:7374/embed
    """

    release: Annotated[str, Positional, arg(metavar="RELEASE")]
    """Folder of a release, models:/NAME@ALIAS of MLflow's registry, or hf://ORG/NAME of a hub."""
    sha256: str | None = None
    """The digest that it must have, as eyespot release printed it."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: Annotated[int, Ge(0), Le(65535)] = 7374
    """0 = any free one."""
    max_batch: Annotated[int, Ge(1), Le(1024)] = 8
    """Images that go through the encoder together at most; 1 = no image's answer depends on others, to the last bit."""
    max_wait_ms: Annotated[float, Ge(0), Le(10_000)] = 2.0
    """How long an image waits for others."""
    max_mb: Annotated[float, Gt(0), Le(1000)] = 20.0
    """Of a request's body; 10^6 bytes."""
    max_megapixels: Annotated[float, Gt(0), Le(250)] = 50.0
    """Of all images of a request, as their headers say; 10^6 pixels."""
    max_requests: Annotated[int, Ge(1), Le(10_000)] = 64
    """For features, at once; others get 503 and Retry-After."""
    timeout: Annotated[float, Gt(0), Le(3600)] = 30.0
    """Seconds for a client to send its body, and for its answer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder computes; images are decoded on the CPU."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")


def main(argv: list[str]) -> int:
    """Serves until it is told to stop; returns the exit code."""
    wanted = parse(Serving, argv, "eyespot serve")
    token = _token(wanted.host)
    with _bound(wanted.host, wanted.port) as listener:  # first, for it takes no time to find out
        server, about = _server(wanted, token)
        with _said(wanted.host, wanted.port):  # another one may have bound it too, and be ready before
            listener.listen(_BACKLOG)
        place = listener.getsockname()
        host = f"[{place[0]}]" if listener.family == socket.AF_INET6 else place[0]
        print(
            one_line(f"{about['name']} ({about['license']}) at http://{host}:{place[1]}  (Ctrl-C ends it)"), flush=True
        )
        server.run(sockets=[listener])
    return ExitCode.DONE


def _token(host: str) -> str | None:
    token = os.environ.get(TOKEN)
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        raise UserError(f"--host {host}: others could ask; set {TOKEN} to a secret of {_SHORTEST} characters or more")
    if token is not None and (len(token) < _SHORTEST or not token.isascii() or token != token.strip()):
        raise UserError(f"{TOKEN}: must be {_SHORTEST} ASCII characters or more, without spaces around it")
    return token


def _bound(host: str, port: int) -> socket.socket:
    """The address is ours; whoever asks is turned away until somebody listens."""
    with _said(host, port), contextlib.ExitStack() as closing:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = closing.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        closing.pop_all()
        return listener


@contextlib.contextmanager
def _said(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: {reason}; choose another one") from error


def _server(wanted: Serving, token: str | None) -> tuple[Any, dict[str, Any]]:
    with working("loading torch"):
        from eyespot.cluster.serving import server as http
        from eyespot.cluster.serving.batching import Batches
        from eyespot.cluster.serving.image_views import ImageViews
        from eyespot.cluster.serving.prometheus import Metrics
        from eyespot.cluster.serving.releases import served

    encoder, views, about = served(wanted.release, wanted.sha256, wanted.device)
    metrics = Metrics()
    pixels = int(wanted.max_megapixels * 1e6)
    seen = ImageViews(views, pixels)
    limits = http.Limits(
        body_bytes=int(wanted.max_mb * 1e6), pixels=pixels, seconds=wanted.timeout, requests=wanted.max_requests
    )
    batches = Batches(
        encoder,
        seen,
        pixels=seen.pixels,
        max_batch=wanted.max_batch,
        max_wait=wanted.max_wait_ms / 1000,
        observe=metrics.encoded,
    )
    app = http.Serving(batches, about, limits, metrics, token).app()
    return http.server_of(app, limits), about
