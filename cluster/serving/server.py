"""The HTTP server: features of images, with limits on bytes, pixels, time, connections and requests."""

import asyncio
import hmac
import io
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from eyespot.cluster.serving.batching import Batches, Rows
from eyespot.cluster.serving.multipart import MalformedParts, parts_of
from eyespot.cluster.serving.prometheus import Metrics
from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.terminal import one_line

log = logging.getLogger("eyespot")

MOST_PARTS = 64
"""Images in one request."""
HEADER_SECONDS = 10.0
"""In which a client has to send a request's headers, and after which an idle connection is closed."""
_LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]", "::1")


class Refusal(Exception):
    """What a request gets in place of features: a status, and one line."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(kw_only=True, slots=True, frozen=True)
class Limits:
    """What one client may ask of the server."""

    body_bytes: int = 20_000_000
    """Of a request."""
    pixels: int = 50_000_000
    """Of all images of a request, as their headers say."""
    seconds: float = 30.0
    """For a client to send a request's body; once more for its answer; and once more for the client to take that."""
    requests: int = 64
    """For features, at once; more are told to come again."""
    connections: int = 256
    """At once; more are closed."""


class Serving:
    """The routes.

    Args:
        batches: what computes.
        about: what /info says; "kinds" names each kind of features.
        limits: of each client.
        metrics: what is counted.
        token: that requests must bear; None = anybody on this machine may ask.
    """

    def __init__(
        self, batches: Batches, about: dict[str, Any], limits: Limits, metrics: Metrics, token: str | None
    ) -> None:
        self._batches, self._about, self._limits = batches, about, limits
        self._metrics, self._token = metrics, token

    def app(self) -> Starlette:
        """The application."""

        @asynccontextmanager
        async def lifespan(_: Starlette):
            yield
            await asyncio.to_thread(self._batches.close)

        routes = [
            Route("/embed", self._guarded(self._embed, counted=True), methods=["POST"]),
            Route("/health", self._health),
            Route("/info", self._guarded(self._info)),
            Route("/metrics", self._guarded(self._show_metrics)),
        ]
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_route})

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]], *, counted: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        """Asks for the token first, and makes one line of JSON of what is refused."""

        async def guarded(request: Request) -> Response:
            began = time.monotonic()
            try:
                self._check_client(request)
                response = await answer(request)
            except Refusal as refusal:
                # What is left of its body is not worth reading: the connection ends with the answer.
                headers = {"Connection": "close"} | refusal.headers
                response = JSONResponse({"error": one_line(str(refusal))}, refusal.status, headers)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception:  # out of memory, features that are no numbers: the next request has its chance
                log.warning("eyespot serve: a request could not be answered", exc_info=True)
                response = JSONResponse({"error": "the server failed; its log says why"}, 500)
            if counted:
                self._metrics.answered(response.status_code, time.monotonic() - began)
            return response

        return guarded

    def _check_client(self, request: Request) -> None:
        if self._token is None:  # a page of a stranger must not ask through somebody's browser
            name = request.headers.get("host", "").lower()
            if name not in _LOCAL_NAMES and name.rpartition(":")[0] not in _LOCAL_NAMES:  # by a name of its own
                raise Refusal(403, "Host: must be 127.0.0.1 or localhost")
            origin = request.headers.get("origin", f"http://{name}").lower()
            if origin != f"http://{name}" or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise Refusal(403, "Origin: pages of another place may not ask")
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise Refusal(401, "Authorization: must be Bearer and the server's token", WWW_Authenticate="Bearer")

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ready\n")  # it listens only once the release is verified and loaded

    async def _info(self, _: Request) -> Response:
        return JSONResponse(self._about)

    async def _show_metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _embed(self, request: Request) -> Response:
        kind = request.query_params.get("kind") or next(iter(self._about["kinds"]))
        if kind not in self._about["kinds"]:
            raise Refusal(400, f"kind: must be one of {', '.join(self._about['kinds'])}")
        if self._metrics.in_flight >= self._limits.requests:
            raise Refusal(503, "too many requests at once; come again", Retry_After="1")
        self._metrics.in_flight += 1
        try:
            files = _images(request.headers.get("content-type", ""), await self._body(request))
            rows = await self._while_it_waits(request, self._features(files, kind))
        finally:
            self._metrics.in_flight -= 1
        return _answer(rows, kind, request.headers.get("accept", ""))

    async def _body(self, request: Request) -> bytes:
        most = self._limits.body_bytes
        too_large = Refusal(413, f"more than {most:,} bytes")
        if int(request.headers.get("content-length", 0)) > most:  # h11 lets only numbers pass
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise Refusal(408, f"the body did not come within {self._limits.seconds:g} seconds") from None
        return bytes(body)

    async def _while_it_waits(self, request: Request, answer: Coroutine[Any, Any, np.ndarray]) -> np.ndarray:
        """The answer, of which nothing more is computed once its client is gone or its time is up."""
        answering, leaving = asyncio.create_task(answer), asyncio.create_task(_gone(request))
        try:
            tasks = (answering, leaving)
            done, _ = await asyncio.wait(tasks, timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answering in done:
                return answering.result()
        finally:
            answering.cancel()
            leaving.cancel()
        if done:
            raise ClientDisconnect
        raise Refusal(504, f"no answer within {self._limits.seconds:g} seconds", Retry_After="1")

    async def _features(self, files: list[bytes], kind: str) -> np.ndarray:
        """One image after another is handed in, so that requests of few images do not wait for those of many."""
        most = left = self._limits.pixels
        for file in files if len(files) > 1 else ():
            left -= await self._batches.pixels(file)
            if left < 0:
                said = f"more than {most / 1e6:g} megapixels in all (--max-megapixels); send several requests"
                raise Refusal(422, said)
        waiting: list[Future[Rows]] = []
        try:
            for number, file in enumerate(files):
                try:
                    waiting.append(await self._batches.put(file))
                except BadImage as error:
                    raise Refusal(422, f"image {number}: {error}" if len(files) > 1 else str(error)) from error
            found = await asyncio.gather(*map(asyncio.wrap_future, waiting))
        finally:
            for each in waiting:
                each.cancel()  # does nothing to an answer; but whoever went away needs none
        return np.stack([each[kind] for each in found])


async def _gone(request: Request) -> None:
    """Returns when the client hangs up, after a body that was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": one_line(error.detail)}, error.status_code, error.headers)


def _images(content_type: str, body: bytes) -> list[bytes]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        try:
            files = parts_of(content_type, body, MOST_PARTS)
        except MalformedParts as error:
            raise Refusal(400, str(error)) from error
    elif kind.startswith("image/") or kind == "application/octet-stream":
        files = [body]
    else:
        raise Refusal(415, "Content-Type: must be image/..., or multipart/form-data with an image in each part")
    if not files or not all(files):
        raise Refusal(400, "there is no image in it")
    return files


def _answer(rows: np.ndarray, kind: str, accept: str) -> Response:
    if "application/x-npy" in accept:
        stream = io.BytesIO()
        np.save(stream, rows, allow_pickle=False)
        return Response(stream.getvalue(), media_type="application/x-npy")
    return JSONResponse({"kind": kind, "features": rows.tolist()})


class _Protocol(H11Protocol):
    """uvicorn's, but that a connection ends which sends no request or takes no answer, and that there are no more."""

    most_connections: int = Limits.connections  # of the class that ``server_of`` makes
    seconds: float = Limits.seconds
    _idle: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that writing pauses while a client leaves a single byte
        # Else an answer's body waits until its header is acknowledged, 40 ms: asyncio does it for its own sockets only.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.most_connections:
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n")
            transport.write(b"Connection: close\r\n\r\n")
            transport.close()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """What was written waits for the client: a close would wait for it too, and so would whoever writes more."""
        super().pause_writing()
        self._untaken = self._untaken or self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._idle, self._untaken):
            if timer is not None:
                timer.cancel()

    def _watch(self) -> None:
        """The clock runs while no request is being read or answered; bytes of an unfinished header do not stop it."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self._idle is not None:
            self._idle.cancel()
            self._idle = None
        elif not busy and self._idle is None:
            self._idle = self.loop.call_later(HEADER_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """uvicorn's, which on SIGTERM or Ctrl-C finishes what is in flight and then simply returns."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but that it does not raise the signal once more at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def server_of(app: Starlette, limits: Limits) -> Server:
    """A server of one process, which ``run(sockets=[...])`` starts.

    Args:
        app: what answers.
        limits: on connections and time.
    """
    protocol = type("Protocol", (_Protocol,), {"most_connections": limits.connections, "seconds": limits.seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(HEADER_SECONDS),
        timeout_graceful_shutdown=math.ceil(3 * limits.seconds),  # whole seconds; 0 would cut off what is in flight
    )
    return Server(config)
