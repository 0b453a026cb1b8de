"""Takes a release out of a tar or zip of a stranger: only files that a release has, nowhere else than asked.

Nothing is extracted by name: a member's bytes are copied into a file that we name, if it is one of the few names that
a release has. An absolute path, a path with "..", a link or a device has nowhere to go: each is refused, not skipped.
"""

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import FILES, SUMS

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
_PART = 1 << 20

Member = tuple[str, int, str, Callable[[], Any]]
"""Name, bytes it says it has, what is wrong with its kind ("" = nothing), and a function that opens it."""


def unpack(archive: Path, into: Path, max_bytes: int, source: str) -> None:
    """Copies a release's files out of an archive: from its top, or from the one folder that all of them lie in.

    Args:
        archive: .tar, .tar.gz or .zip; its content says which.
        into: an empty folder.
        max_bytes: as many bytes may come out, whatever the headers say.
        source: what to call it in errors.

    Raises:
        UserError: it is no such archive, is damaged or too large, or holds something that a release does not have.
    """
    left, tops = max_bytes, set[PurePosixPath]()
    try:
        with _members(archive) as members:
            for name, size, fault, open_member in members:
                path = PurePosixPath(name)
                where = f"{source}: the archive's member {name[:120]!r}"
                if path.is_absolute() or ".." in path.parts or "\\" in name:
                    raise UserError(f"{where} points outside of it; the archive is hostile or broken")
                if fault:
                    raise UserError(f"{where} is {fault}; a release holds plain files only")
                if open_member is _folder:
                    continue
                if path.name not in FILES | {SUMS} or len(path.parts) > 2:
                    raise UserError(f"{where} is no file of a release; pack the release folder alone")
                tops.add(path.parent)
                if len(tops) > 1 or (into / path.name).exists():
                    raise UserError(f"{where} is there twice; pack one release alone")
                if size > left or not _copied(open_member(), into / path.name, left):
                    raise UserError(f"{source}: more than {max_bytes:,} bytes come out of it; too large to be unpacked")
                left -= (into / path.name).stat().st_size
    except (tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{source}: the archive is damaged or cut short ({reason}); fetch it anew") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, or compressed in an exotic way
        raise UserError(f"{source}: the archive cannot be read ({error}); pack it as .tar.gz") from error


def _folder() -> None:
    """Opens nothing: the member is a folder, which we have no use for."""


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    with archive.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened)
    else:
        with tarfile.open(archive, "r:gz" if start.startswith(b"\x1f\x8b") else "r:") as opened:
            yield _tar_members(opened)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
        yield info.filename, info.file_size, fault, _folder if info.is_dir() else lambda info=info: archive.open(info)


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        fault = "" if (info.isreg() and not info.issparse()) or info.isdir() else "a link, a device or full of holes"
        opener = _folder if info.isdir() else lambda info=info: archive.extractfile(info)
        yield info.name, info.size, fault, opener


def _copied(member: Any, path: Path, max_bytes: int) -> bool:
    """Copies an opened member to ``path``; False where it has more than ``max_bytes``."""
    with member, path.open("xb") as file:
        while part := member.read(_PART):
            max_bytes -= len(part)
            if max_bytes < 0:
                return False
            file.write(part)
    return True
