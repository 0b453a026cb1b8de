"""Names of places: a path of the file system, or the address of something in an object store.

What a person gives stays text (``data.shards``): a ``Path`` would make ``s3:/bucket`` of ``s3://bucket``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eyespot.data_pipeline.errors import UserError

SCHEMES = ("s3", "gs", "az", "hf", "http", "https")
_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
_COLLAPSED = re.compile(rf"({'|'.join(SCHEMES)}|file):/(?!/)", re.IGNORECASE)
"""What a ``Path`` makes of an address."""
_BUCKET = re.compile(r"[\w.$-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Of a folder or an object in a store; ``/`` and ``name`` are those of a path.

    Nothing about it is opened. It is no ``os.PathLike``: who would open it as a file fails at once.
    """

    scheme: str
    bucket: str
    """Of a store that has some: bucket or container; of http(s) the host, of hf ``datasets/USER/NAME``."""
    key: str
    """Below the bucket, without slashes at its ends; empty = the bucket itself."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    def __truediv__(self, name: str) -> "Address":
        return Address(self.scheme, self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part."""
        return (self.key or self.bucket).rpartition("/")[2]

    @property
    def parent(self) -> "Address":
        """What it lies in; the bucket's is itself."""
        return Address(self.scheme, self.bucket, self.key.rpartition("/")[0])


Location = Path | Address


def is_address(text: str) -> bool:
    """Whether somebody means a store and no path: ``s3://...``, also of a kind that is not known here."""
    return _ADDRESS.fullmatch(text) is not None or _COLLAPSED.match(text) is not None


def location_of(place: "str | Path | Address") -> Location:
    """What a text names.

    Args:
        place: as a person wrote it; paths and addresses are returned as they are, and a ``Path`` that was made of an
            address is one again.

    Raises:
        UserError: it is an address of an unknown kind, or names no bucket or host.
    """
    if isinstance(place, Address):
        return place
    if _COLLAPSED.match(text := str(place)):
        text = text.replace(":/", "://", 1)
    if (found := _ADDRESS.fullmatch(text)) is None:
        return Path(place)
    scheme, rest = found[1].lower(), found[2].strip("/")
    if scheme == "file":
        return Path(f"/{rest}")
    if scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise UserError(f"{text}: no store is called {scheme}://; known are {known} and paths")
    if "?" in rest or "#" in rest:
        told = re.split("[?#]", text)[0]  # behind it may stand a signature
        raise UserError(
            f"{told}: an address of a folder has no ? or # in it; give the folder, and keys by the environment"
        )
    _check_letters(text, scheme, rest)
    parts = [part for part in rest.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise UserError(f"{text}: . and .. are no names in a store; write the whole address")
    size = 1
    if scheme == "hf":
        parts = parts if parts[:1] in (["datasets"], ["buckets"]) else ["datasets", *parts]
        size = 3
    if len(parts) < size:
        more = "hf://datasets/USER/NAME/FOLDER" if scheme == "hf" else f"{scheme}://BUCKET/FOLDER"
        raise UserError(f"{text}: incomplete; write {more}")
    return Address(scheme, "/".join(parts[:size]), "/".join(parts[size:]))


def _check_letters(text: str, scheme: str, rest: str) -> None:
    """Raises a UserError where others would read it otherwise than we do, or a client breaks at it."""
    host, _, path = rest.partition("/")
    if "@" in host:
        told = text.replace(host.rpartition("@")[0], "...")
        raise UserError(f"{told}: an address has no name and password in it; take them out, keys are the environment's")
    if scheme in ("http", "https"):
        if not is_web_host(host):
            raise UserError(f"{text}: {host!r} is no host; write {scheme}://HOST/FOLDER or {scheme}://HOST:PORT/FOLDER")
        if (plain := unquote(path)) != path:
            raise UserError(f"{text}: write the letters themselves, not as a browser encodes them: {host}/{plain}")
    elif scheme != "hf" and host and not _BUCKET.fullmatch(host):
        raise UserError(f"{text}: {host!r} is no name of a bucket; write {scheme}://BUCKET/FOLDER")


def is_web_host(host: str) -> bool:
    """Whether that is a name or number of a host, with a port perhaps: HOST, HOST:8080, [::1]:8080."""
    if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d*)?", host):
        return False
    try:
        parts = urlsplit(f"//{host}")
        return bool(parts.hostname) and parts.port != 0  # which looks whether the port is one
    except ValueError:
        return False


def whole_location(text: str, *, home: bool = False) -> str:
    """The same place, whatever folder somebody is in: a path made absolute, an address as it is.

    Args:
        text: as a person wrote it.
        home: ``~`` is the person's home folder.

    Raises:
        UserError: it is no address.
    """
    place = location_of(text)
    if home and isinstance(place, Path):
        place = place.expanduser()
    return str(place.absolute() if isinstance(place, Path) else place)


def check_on_disk(destination: Path, field: str = "destination", what: str = "shards are") -> None:
    """Whether something can be written there.

    Args:
        destination: where to.
        field: who says so, for the error.
        what: is written.

    Raises:
        UserError: it is the address of an object store, of which a ``Path`` would make a folder called ``s3:``.
    """
    if isinstance(place := location_of(destination), Address):
        raise UserError(f"{field} {place}: {what} written on a disk only; name a folder there; upload it afterwards")


def check_read_on_disk(field: str, source: str | Path) -> None:
    """Whether something can be there that is read from a disk only.

    Raises:
        UserError: it is the address of an object store.
    """
    if isinstance(place := location_of(source), Address):
        raise UserError(f"{field} {place}: is read from a disk only; download it, and name the folder")
