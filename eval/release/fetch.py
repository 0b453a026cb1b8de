"""Fetches a release from a folder, an archive, a web address or MLflow's registry, and verifies it on arrival.

    FOLDER, FILE.tar.gz                      on this disk
    https://host/path/release.tar.gz         an archive: .tar, .tar.gz, .tgz or .zip
    https://host/path/release                a folder of files, SHA256SUMS among them, as any web server or a model hub
                                             serves it
    models:/NAME@ALIAS, models:/NAME/3       MLflow's registry
    hf://ORG/NAME, hf://ORG/NAME@REVISION    the Hugging Face Hub: a branch, a tag or a commit

It arrives beside the wanted place and is renamed when it is verified: there is a whole release or nothing.
"""

import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release import registry
from eyespot.eval.release.archive import SUFFIXES, unpack
from eyespot.eval.release.download import Way, download, download_folder
from eyespot.eval.release.hub import reading
from eyespot.eval.release.hub.address import HubAddress, is_hub, parse_address
from eyespot.eval.release.hub.notes import HubNotes
from eyespot.eval.release.layout import SUMS, digest_of, settle
from eyespot.eval.release.verify import verified
from eyespot.pretrain.redaction import masked

MAX_BYTES = 64 << 30
"""Of a whole release: an encoder of sixteen billion parameters. What is larger is an attack or a mistake."""


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
            tagged = _fetch(address, folder, Way(source, allow_redirect), uri, max_bytes)
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
    _verify_cached(folder, found.digest, address)
    return folder


def cached_from_hub(address: str, cache: Path) -> tuple[Path, HubAddress]:
    """The release of a hub's address, fetched only where ``cache`` does not hold it yet; verified either way.

    A commit that is there already is not asked for again; a branch is, and offline means what it meant last.

    Args:
        address: ``hf://ORG/NAME@REVISION``.
        cache: a folder; each release lies in it under its digest, whatever place it came from.

    Returns:
        The folder; the address with the commit.

    Raises:
        UserError, Outage: as ``fetched``.
    """
    wanted = parse_address(address)
    notes, known = HubNotes(cache, wanted), None
    if reading.is_offline():
        known = notes.commit_of(wanted.revision)
    at = wanted.at(known) if known else reading.pinned(address)
    digest = notes.digest_of(at.revision)
    if digest is not None and (cache / digest).is_dir():
        _verify_cached(cache / digest, digest, address)
    else:
        with tempfile.TemporaryDirectory(prefix=".hub.", suffix=".tmp", dir=cache) as room:
            fresh = fetched(str(at), Path(room) / "release")
            digest = digest_of(fresh)
            _keep(fresh, cache / digest, address)
    notes.write(wanted.revision, at.revision, digest)
    return cache / digest, at


def _keep(fresh: Path, place: Path, address: str) -> None:
    """Moves a verified release into the cache; what is there, from elsewhere or by another process, must verify too."""
    try:
        fresh.rename(place)
    except OSError as error:
        if not place.is_dir():
            raise UserError(f"{place.parent}: cannot be written; set XDG_CACHE_HOME to a folder that can") from error
        _verify_cached(place, place.name, address)


def _verify_cached(folder: Path, digest: str, address: str) -> None:
    verified(folder, masked(f"release {address}"))
    if digest_of(folder) != digest:
        raise UserError(f"{folder}: is not the release that it is named after; remove it, it is fetched anew")


def _fetch(address: str, folder: Path, way: Way, uri: str | None, max_bytes: int) -> str | None:
    """Brings the files into ``folder``; returns the digest that the registry says they have."""
    source = way.source
    if registry.is_registered(address):
        return registry.download(address, folder, uri)
    if is_hub(address):
        reading.download_release(address, folder, max_bytes)
        return None
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:  # http://[::1/x, or a port that is none
        raise UserError(f"{source}: is no web address ({error})") from error
    if parts.scheme in ("http", "https"):
        if parts.path.lower().endswith(SUFFIXES):
            archive = folder.with_name("archive")
            download(address, archive, way, max_bytes)
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
            f"{source}: no such folder or archive; name one, an http(s) address, hf://ORG/NAME of a"
            " hub, or models:/NAME@ALIAS of a registry"
        )
    return None


def _download_folder(address: str, folder: Path, way: Way, max_bytes: int) -> None:
    parts = urlsplit(address)

    def address_of(name: str) -> str:
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))

    download_folder(address_of, folder, way, max_bytes)
