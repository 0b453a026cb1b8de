"""Files from a web server, bounded in every way: size, time, silence, and where the server may send us."""

import base64
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import eyespot
from eyespot.data_pipeline.errors import BUSY, Outage, UserError, is_network_outage
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.eval.release.layout import MAX_TEXT_BYTES, SUMS, parse_sums
from eyespot.pretrain.redaction import masked

log = logging.getLogger("eyespot")

T = TypeVar("T")

TIMEOUT_SECONDS = 60
"""Of silence."""
MIN_BYTES_PER_SECOND = 10_000
"""On the average of a file, after a minute: a server that sends a byte now and then would hold us for ever."""
MAX_SECONDS = 86_400
"""Of a file."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two tries; each pause is twice the last, or what the server asks for. One that asks for more than the
longest is not waited for."""
_PART = 1 << 20


@dataclass(slots=True, frozen=True)
class Way:
    """How a release is fetched."""

    source: str
    """What to call it in errors."""
    allow_redirect: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    """For the host of the address, and no other that it may send us to, however often: they hold its token."""
    tries: int = 1
    """How often a file is asked for while there is an outage."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends us on the same host; never from https to http, nor to what is no web address."""

    def __init__(self, way: Way, address: str) -> None:
        self._way, self._asked = way, _host(address)

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(urljoin(req.full_url, newurl))
        sent = masked(f"{self._way.source}: the server sends us to {new.scheme}://{new.netloc}"[:300])
        if new.scheme not in ("http", "https"):
            raise UserError(f"{sent}, which is no web address; name another")
        if (old.scheme, new.scheme) == ("https", "http"):
            raise UserError(f"{sent}, where anybody on the way could change what comes; name an https address")
        if old.hostname != new.hostname and not self._way.allow_redirect:
            raise UserError(f"{sent}, another host; if you trust it, name that address or say --allow-redirect")
        again = super().redirect_request(req, fp, code, msg, headers, newurl)
        if again is not None and _host(again.full_url) == self._asked:
            _add_headers(again, self._way)
        return again


def download_folder(address_of: Callable[[str], str], folder: Path, way: Way, max_bytes: int) -> None:
    """Fetches a release's files; SHA256SUMS says which there are.

    Args:
        address_of: where the file of that name is.
        folder: that they are written to.
        way: how.
        max_bytes: of all of them; more is refused.

    Raises:
        UserError, Outage: as ``download``; or SHA256SUMS lists what no release has.
    """
    download(address_of(SUMS), folder / SUMS, way, MAX_TEXT_BYTES)
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{way.source}: {SUMS} is no text; name the address of a release") from error
    for name in parse_sums(text, way.source):
        download(address_of(name), folder / name, way, max_bytes)
        max_bytes -= (folder / name).stat().st_size


def patiently(work: Callable[[], T], tries: int) -> T:
    """What ``work`` returns at last: it is done again, after growing pauses, while it raises an Outage.

    Args:
        work: may be done again from its beginning.
        tries: how often at most.

    Raises:
        Outage: of the last try, or of one whose server asks for a longer pause than ``LONGEST_PAUSE``.
    """
    for count in range(1, tries):
        try:
            return work()
        except Outage as error:
            pause = retry_after(error) or min(FIRST_PAUSE * 2 ** (count - 1), LONGEST_PAUSE)
            if pause > LONGEST_PAUSE:
                raise
            log.warning("%s; trying again in %.0f s", error, pause)
        time.sleep(pause)
    return work()


def retry_after(error: BaseException | None) -> float:
    """The seconds that a server asks to wait, by its header; 0 where it does not say."""
    while error is not None:
        headers = getattr(getattr(error, "response", error), "headers", None)
        said = headers.get("Retry-After") if headers is not None else None
        if said is not None and (said := said.strip()).isascii() and said.isdigit():
            return float(said[:9])
        error = error.__cause__
    return 0.0


def download(address: str, path: Path, way: Way, max_bytes: int) -> None:
    """Fetches one file, in a thread of its own: whatever a server does, look-up and handshake included, it returns.

    Args:
        address: http or https.
        path: of the file that is written.
        way: how.
        max_bytes: a larger one is refused.

    Raises:
        UserError: it is not there, is too large, or the server sends us where we do not go.
        Outage: the network or the server fails. The cause of either is what urllib raised.
    """
    patiently(lambda: _download(address, path, way, max_bytes), way.tries)


def _download(address: str, path: Path, way: Way, max_bytes: int) -> None:
    failed: list[BaseException] = []
    thread = threading.Thread(target=_in_thread, args=(failed, address, path, way, max_bytes), daemon=True)
    begin = time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        seconds = time.monotonic() - begin
        num_bytes = path.stat().st_size if path.exists() else 0
        if thread.is_alive() and seconds > min(MAX_SECONDS, TIMEOUT_SECONDS + num_bytes / MIN_BYTES_PER_SECOND):
            raise Outage(
                f"{way.source}: {path.name}: {num_bytes:,} bytes in {seconds:.0f} s, the server is too slow; try again"
            )
    if failed:
        raise failed[0]


def _in_thread(failed: list[BaseException], *work: Any) -> None:
    try:
        _receive(*work)
    except BaseException as error:
        failed.append(error)


def _receive(address: str, path: Path, way: Way, max_bytes: int) -> None:
    source, length, num_bytes = way.source, -1, 0
    try:
        opener = urllib.request.build_opener(_Redirects(way, address))
        # Not buffered: what has come shows in the file's size.
        with (
            opener.open(_request(address, way), timeout=TIMEOUT_SECONDS) as answer,
            path.open("wb", buffering=0) as file,
        ):
            length = int(answer.headers.get("Content-Length") or -1)
            if length > max_bytes:
                raise UserError(f"{source}: {path.name} has {length:,} bytes, more than {max_bytes:,}; too large")
            for part in _parts(answer, path.name, length):
                num_bytes += len(part)
                if num_bytes > max_bytes:
                    raise UserError(f"{source}: {path.name} has more than {max_bytes:,} bytes; too large")
                file.write(part)
    except urllib.error.HTTPError as error:
        reason = " ".join(str(error.reason).split())[:200]
        kind = Outage if error.code in BUSY else UserError
        pause = f"; it asks to wait {seconds:,.0f} s" if (seconds := retry_after(error)) else ""
        raise kind(f"{source}: {path.name}: the server answers {error.code} {reason}{pause}") from error
    except urllib.error.URLError as error:
        kind = Outage if is_network_outage(error.reason) else UserError
        raise kind(f"{source}: the server cannot be reached ({error.reason})") from error
    except (HTTPException, TimeoutError, ConnectionError, ValueError, OverflowError) as error:
        kind = UserError if isinstance(error, ValueError | OverflowError | InvalidURL) else Outage
        raise kind(f"{source}: {path.name} broke off ({type(error).__name__}); try again") from error
    if length >= 0 and num_bytes != length:
        raise Outage(f"{source}: {path.name} broke off after {num_bytes:,} of {length:,} bytes; try again")


def _request(address: str, way: Way) -> urllib.request.Request:
    """user:password@ of an address becomes a header, which a redirect to another host does not take along."""
    parts = urlsplit(address)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)))
    request.add_header("User-Agent", f"eyespot/{eyespot.__version__}")
    if login:
        token = base64.b64encode(unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    _add_headers(request, way)
    return request


def _host(address: str) -> tuple[str, str]:
    """Who is asked: the scheme, and the host with its port."""
    parts = urlsplit(address)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _add_headers(request: urllib.request.Request, way: Way) -> None:
    for name, value in way.headers.items():
        request.add_unredirected_header(name, value)


def _parts(answer: Any, name: str, length: int) -> Iterator[bytes]:
    with ProgressBar(name, length if length >= 0 else None, unit="bytes", transient=True) as bar:
        while part := answer.read1(_PART):
            bar.advance(len(part))
            yield part
