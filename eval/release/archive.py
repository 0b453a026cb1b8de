"""Takes a release out of a tar or zip of a stranger: only files that a release has, nowhere else than asked.

Nothing is extracted by name: a member's bytes are copied into a file that we name, if it is one of the few names that
a release has. An absolute path, a path with "..", a link or a device has nowhere to go: each is refused, not skipped.

What stands around the files (headers, extended headers, a zip's directory) has some kilobytes in a release, and may say
that it has gigabytes: it is read through ``_Bounded``, which stops where no release gets to.
"""

import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, cast

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import FILES, SUMS, most_bytes

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
_PART = 1 << 20
_MOST_MEMBERS = 64
_TAR_HEADER, _TAR_HEADERS = 8 << 10, 64 << 10
"""Bytes of one header of a tar and of all: two blocks and a page of extended attributes are common."""
_ZIP_HEADER, _ZIP_HEADERS = 128 << 10, 1 << 20
"""Of a zip: 64 KiB at its end are looked through for its directory."""
_LARGEST_RATIO, _FREE_OF_RATIO = 200, 1 << 30
"""So many bytes at most may come out for one that goes in, beyond the first GiB: weights hardly shrink."""

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
    left = min(max_bytes, max(_FREE_OF_RATIO, _LARGEST_RATIO * archive.stat().st_size), shutil.disk_usage(into).free)
    limit, tops = left, set[PurePosixPath]()
    try:
        with _members(archive, source) as members:
            for number, (name, size, fault, open_member) in enumerate(members):
                if number >= _MOST_MEMBERS:
                    raise UserError(f"{source}: over {_MOST_MEMBERS} members; pack the release folder alone")
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
                most = min(left, most_bytes(path.name) or left)
                if not 0 <= size <= most or not _copied(open_member(), into / path.name, most):
                    raise UserError(
                        f"{source}: more than {limit:,} bytes come out of it, or more than {most:,} out of {path.name};"
                        " too large to be unpacked"
                    )
                left -= (into / path.name).stat().st_size
    except (tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{source}: the archive is damaged or cut short ({reason}); fetch it anew") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, or compressed in an exotic way
        raise UserError(f"{source}: the archive cannot be read ({error}); pack it as .tar.gz") from error


def _folder() -> None:
    """Opens nothing: the member is a folder, which we have no use for."""


class _Bounded(io.RawIOBase):
    """A file of which, outside of members, only so much is read.

    Args:
        file: it.
        header: bytes that one read may ask for.
        headers: bytes that all of them may.
        source: what to call it in errors.

    Attributes:
        in_member: what is read now are a file's bytes, which ``unpack`` counts.

    Raises:
        UserError: when somebody reads further.
    """

    def __init__(self, file: Any, header: int, headers: int, source: str) -> None:
        self._file, self._header, self._left, self._source = file, header, headers, source
        self.in_member = False

    def read(self, size: int | None = -1, /) -> bytes:
        asked = -1 if size is None else size
        if self.in_member and 0 <= asked <= 2 * _PART:
            return self._file.read(asked)
        allowed = min(self._header, self._left)
        if asked <= allowed:
            found = self._file.read(asked if asked >= 0 else allowed + 1)
            self._left -= len(found)
            if len(found) <= allowed:
                return found
        raise UserError(
            f"{self._source}: has headers larger than those of any release; the archive is hostile or broken"
        )

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


@contextmanager
def _members(archive: Path, source: str) -> Iterator[Iterator[Member]]:
    with archive.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(b"PK"):
            bounded = _Bounded(file, _ZIP_HEADER, _ZIP_HEADERS, source)
            with zipfile.ZipFile(cast(Any, bounded)) as opened:
                yield _zip_members(opened, bounded)
            return
        plain = gzip.GzipFile(fileobj=file) if start.startswith(b"\x1f\x8b") else file
        bounded = _Bounded(plain, _TAR_HEADER, _TAR_HEADERS, source)
        with tarfile.open(fileobj=cast(Any, bounded), mode="r:") as opened:
            yield _tar_members(opened, bounded)


def _zip_members(archive: zipfile.ZipFile, file: _Bounded) -> Iterator[Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = "compressed in an exotic way"  # some of which take gigabytes to read one byte
        opener = _folder if info.is_dir() else lambda info=info: archive.open(info)
        yield from _one(info.filename, info.file_size, fault, opener, file)


def _tar_members(archive: tarfile.TarFile, file: _Bounded) -> Iterator[Member]:
    for info in archive:
        fault = "" if (info.isreg() and not info.issparse()) or info.isdir() else "a link, a device or full of holes"
        opener = _folder if info.isdir() else lambda info=info: archive.extractfile(info)
        # A negative size leads tarfile backwards for ever.
        yield from _one(info.name, info.size, fault or ("of an impossible size" if info.size < 0 else ""), opener, file)


def _one(name: str, size: int, fault: str, opener: Callable[[], Any], file: _Bounded) -> Iterator[Member]:
    """A member; until the next is asked for, its bytes are read, and after that headers again."""
    file.in_member = True
    yield name, size, fault, opener
    file.in_member = False


def _copied(member: Any, path: Path, max_bytes: int) -> bool:
    """Copies an opened member to ``path``; False where it has more than ``max_bytes``."""
    with member, path.open("xb") as file:
        while part := member.read(_PART):
            max_bytes -= len(part)
            if max_bytes < 0:
                return False
            file.write(part)
    return True
