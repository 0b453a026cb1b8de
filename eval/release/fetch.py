"""Fetches a release from a folder, an archive, a web address or MLflow's registry, and verifies it on arrival.

    FOLDER, FILE.tar.gz                      on this disk
    https://host/path/release.tar.gz         an archive: .tar, .tar.gz, .tgz or .zip
    https://host/path/release                a folder of files, SHA256SUMS among them, as any web server or a model hub
                                             serves it
    models:/NAME@ALIAS, models:/NAME/3       MLflow's registry

It arrives beside the wanted place and is renamed when it is verified: there is a whole release or nothing.
"""

import base64
import errno
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import eyespot
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.eval.release import registry
from eyespot.eval.release.archive import SUFFIXES, unpack
from eyespot.eval.release.layout import MAX_TEXT_BYTES, SUMS, digest_of, parse_sums, settle
from eyespot.eval.release.verify import verified
from eyespot.pretrain.redaction import masked

MAX_BYTES = 64 << 30
"""Of a whole release: an encoder of sixteen billion parameters. What is larger is an attack or a mistake."""
TIMEOUT_SECONDS = 60
"""Of silence."""
MIN_BYTES_PER_SECOND = 10_000
"""On the average of a file, after a minute: a server that sends a byte now and then would hold us for ever."""
MAX_SECONDS = 86_400
"""Of a file."""
BUSY = {429, 500, 502, 503, 504}
"""What a server answers that may have the thing, and cannot give it now."""
_UNREACHABLE = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
_PART = 1 << 20


@dataclass(slots=True, frozen=True)
class _Way:
    """How a release is fetched."""

    source: str
    """What to call it in errors."""
    allow_redirect: bool


def fetched(
    address: str,
    into: Path,
    *,
    sha256: str | None = None,
    uri: str | None = None,
    max_bytes: int = MAX_BYTES,
    allow_redirect: bool = False,
) -> Path:
    """Fetches a release and verifies it.

    Args:
        address: where it is; see above.
        into: the folder that it becomes; must not exist.
        sha256: the digest that it must have, as ``eyespot release`` printed it; None = any.
        uri: MLflow's tracking URI, for ``models:/``; None = MLFLOW_TRACKING_URI.
        max_bytes: a larger one is refused.
        allow_redirect: the server may send us to another host.

    Returns:
        ``into``.

    Raises:
        UserError: it is not there, or does not match; then nothing is left behind.
        Outage: the network or the server fails; the same.
    """
    source = masked(f"release {address}")
    if into.exists():
        raise UserError(f"{into}: exists already; choose another folder, or remove it")
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        room = tempfile.TemporaryDirectory(prefix=f".{into.name}.", suffix=".tmp", dir=into.parent)
    except OSError as error:
        raise UserError(f"{into}: cannot be written ({error.strerror}); choose another folder") from error
    with room:
        folder = Path(room.name) / "release"
        folder.mkdir()
        try:
            tagged = _fetch(address, folder, _Way(source, allow_redirect), uri, max_bytes)
        except OSError as error:
            raise UserError(f"{source}: cannot be fetched ({error.strerror or error})") from error
        verified(folder, source)
        for wanted, whose in ((tagged, "the registry's tag"), (sha256, "--sha256")):
            if wanted is not None and digest_of(folder) != wanted.lower():
                raise UserError(
                    f"{source}: is another release: sha256 of {SUMS} is {digest_of(folder)}, {whose} says {wanted}"
                )
        try:
            settle(folder)
            folder.rename(into)
        except OSError as error:
            raise UserError(f"{into}: cannot be written ({error.strerror}); choose another folder") from error
    return into


def is_outage(error: object) -> bool:
    """Whether what failed, or what that came from, is a network or a server that may work again."""
    while isinstance(error, BaseException):
        if isinstance(error, socket.gaierror):
            return error.errno == socket.EAI_AGAIN  # else there is no such name, or no network at all
        if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None) in _UNREACHABLE:
            return True
        if getattr(getattr(error, "response", None), "status_code", None) in BUSY:
            return True
        error = error.__cause__ or error.__context__
    return False


def cached(address: str, cache: Path, uri: str | None = None) -> Path:
    """The release of a registry address, fetched only where ``cache`` does not hold it yet; verified either way.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        cache: a folder; each release lies in it under its digest.
        uri: MLflow's tracking URI; None = MLFLOW_TRACKING_URI.

    Raises:
        UserError, Outage: as ``fetched``.
    """
    found = registry.find(address, uri)
    folder = cache / found.digest
    if not folder.is_dir():
        # By number: an alias may move in the meantime.
        return fetched(f"models:/{found.name}/{found.version}", folder, sha256=found.digest, uri=uri)
    verified(folder, masked(f"release {address}"))
    if digest_of(folder) != found.digest:
        raise UserError(f"{folder}: is not the release that it is named after; remove it, it is fetched anew")
    return folder


def _fetch(address: str, folder: Path, way: _Way, uri: str | None, max_bytes: int) -> str | None:
    """Brings the files into ``folder``; returns the digest that the registry says they have."""
    source = way.source
    if registry.is_registered(address):
        return registry.download(address, folder, uri)
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:  # http://[::1/x, or a port that is none
        raise UserError(f"{source}: is no web address ({error})") from error
    if parts.scheme in ("http", "https"):
        if parts.path.lower().endswith(SUFFIXES):
            archive = folder.with_name("archive")
            _download(address, archive, way, max_bytes)
            unpack(archive, folder, max_bytes, source)
        else:
            _download_folder(address, folder, way, max_bytes)
    elif Path(address).is_dir():
        for path in sorted(Path(address).iterdir()):
            if path.is_symlink() or not path.is_file():
                raise UserError(f"{source}: {path.name} is no regular file, so it is no release")
            shutil.copyfile(path, folder / path.name)
    elif Path(address).is_file():
        unpack(Path(address), folder, max_bytes, source)
    else:
        raise UserError(
            f"{source}: no such folder or archive; name one, an http(s) address, or models:/NAME@ALIAS of a registry"
        )
    return None


def _download_folder(address: str, folder: Path, way: _Way, max_bytes: int) -> None:
    """SHA256SUMS says which files there are."""
    parts, source = urlsplit(address), way.source

    def address_of(name: str) -> str:
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))

    _download(address_of(SUMS), folder / SUMS, way, MAX_TEXT_BYTES)
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{source}: {SUMS} is no text; name the address of a release's folder or archive") from error
    for name in parse_sums(text, source):
        _download(address_of(name), folder / name, way, max_bytes)
        max_bytes -= (folder / name).stat().st_size


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends us on the same host; never from https to http, nor to what is no web address."""

    def __init__(self, way: _Way) -> None:
        self._way = way

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
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, path: Path, way: _Way, max_bytes: int) -> None:
    """In a thread of its own: whatever a server does, name look-up and handshake included, this returns in time."""
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


def _receive(address: str, path: Path, way: _Way, max_bytes: int) -> None:
    source, length, num_bytes = way.source, -1, 0
    try:
        opener = urllib.request.build_opener(_Redirects(way))
        # Not buffered: what has come shows in the file's size.
        with opener.open(_request(address), timeout=TIMEOUT_SECONDS) as answer, path.open("wb", buffering=0) as file:
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
        raise kind(f"{source}: {path.name}: the server answers {error.code} {reason}") from error
    except urllib.error.URLError as error:
        kind = Outage if is_outage(error.reason) else UserError
        raise kind(f"{source}: the server cannot be reached ({error.reason})") from error
    except (HTTPException, TimeoutError, ConnectionError, ValueError, OverflowError) as error:
        kind = UserError if isinstance(error, ValueError | OverflowError | InvalidURL) else Outage
        raise kind(f"{source}: {path.name} broke off ({type(error).__name__}); try again") from error
    if length >= 0 and num_bytes != length:
        raise Outage(f"{source}: {path.name} broke off after {num_bytes:,} of {length:,} bytes; try again")


def _request(address: str) -> urllib.request.Request:
    """user:password@ of an address becomes a header, which a redirect to another host does not take along."""
    parts = urlsplit(address)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)))
    request.add_header("User-Agent", f"eyespot/{eyespot.__version__}")
    if login:
        token = base64.b64encode(unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _parts(answer: Any, name: str, length: int) -> Iterator[bytes]:
    with ProgressBar(name, length if length >= 0 else None, unit="bytes", transient=True) as bar:
        while part := answer.read1(_PART):
            bar.advance(len(part))
            yield part
