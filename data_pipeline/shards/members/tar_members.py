"""Where the files inside a tar lie, whoever wrote it: USTAR, GNU and PAX headers, long names."""

import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.terminal import plural

BLOCK = 512
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


_HOSTILE = (ValueError, OverflowError, RecursionError)
"""Of tarfile: of odd numbers in a header, and of a thousand long names that are each for the next."""


class Member(NamedTuple):
    """A regular file inside a tar."""

    name: str
    offset: int
    """Of its bytes (not of its header), from the start of the tar."""
    size: int


@dataclass(kw_only=True, slots=True)
class Scan:
    """What a plain tar holds."""

    files: list[Member]
    problem: str | None
    """One line; None = the tar is whole."""
    skipped: Tally = field(default_factory=Tally)
    """Members that are no plain files."""


def scan(path: Path) -> Scan:
    """Reads all headers of a plain (not compressed) tar, also those of tars that were appended to it as they are.

    Raises:
        UserError: it is no plain tar.
    """
    found = Scan(files=[], problem=None)
    with path.open("rb") as file:
        start: int | None = 0
        while start is not None:
            file.seek(start)
            try:
                end = _scan_archive(file, found)
            except (tarfile.TarError, EOFError, *_HOSTILE) as error:
                raise UserError(f"{path}: {_no_tar(path, error)}") from error
            if found.problem:
                break
            start = _appended(file, end, found.skipped)
    return found


def _scan_archive(file: BinaryIO, found: Scan) -> int:
    """Reads one archive from where the file stands; returns where it ends."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, *_HOSTILE) as error:
                found.problem = f"truncated or damaged after {plural(len(found.files), 'file')} ({error})"
                return archive.offset
            if member is None:
                break
            if (reason := _no_file(member)) is None:
                found.files.append(Member(member.name, member.offset_data, member.size))
            else:
                found.skipped.add(reason, member.name)
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else a list of a million headers grows
        file.seek(archive.offset)
        if file.read(BLOCK) != bytes(BLOCK):  # a tar that was cut at a member's border does not end with zeros
            found.problem = f"truncated or damaged after {plural(len(found.files), 'file')} (no end-of-archive block)"
        return archive.offset


def _no_file(member: tarfile.TarInfo) -> str | None:
    """Why a member's bytes are not to be had; None = they are."""
    if member.isdir():
        return "a folder"
    if member.issym() or member.islnk():
        return "a link"
    if member.issparse():
        return "a sparse file"
    return None if member.isreg() else "a device, a pipe or the like"


def _appended(file: BinaryIO, end: int, skipped: Tally) -> int | None:
    """Where, behind the zeros that end an archive, another one begins."""
    file.seek(end)
    while block := file.read(1 << 20):
        if rest := block.lstrip(b"\0"):
            start = end + (len(block) - len(rest)) // BLOCK * BLOCK
            file.seek(start)
            try:
                tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError):
                skipped.add("bytes behind the end of the tar", f"at offset {start}")
                return None
            return start
        end += len(block)
    return None


def _no_tar(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        first = file.read(8)
    packed = next((name for magic, name in _COMPRESSED.items() if first.startswith(magic)), None)
    return f"compressed ({packed}); unpack it first" if packed else f"not a plain tar ({error})"


def idx_text(samples: list[list[tuple[str, int, int, str]]]) -> str:
    """The index that DALI's ``wds2idx`` would write, format v1.2, read by ``fn.readers.webdataset``.

    Args:
        samples: for each sample its members: extension, offset, size, name.
    """
    lines = (" ".join(" ".join(map(str, member)) for member in sample) for sample in samples)
    return "".join(f"{line}\n" for line in (f"v1.2 {len(samples)}", *lines))
