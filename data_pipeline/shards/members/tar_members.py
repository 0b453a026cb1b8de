"""Where the files inside a tar lie, whoever wrote it: USTAR, GNU and PAX headers, long names."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, overload

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.patience import words
from eyespot.data_pipeline.shards.members.packed_columns import Names, Numbers
from eyespot.data_pipeline.shards.members.skipped import MOST_EXAMPLES, Tally, printable
from eyespot.data_pipeline.terminal import plural

BLOCK = 512
IDX_BLOCK = 1 << 14
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


class Members(Sequence[Member]):
    """Members in packed columns: some 10 bytes for each, where a list of them takes 250. It grows by ``append``."""

    def __init__(self) -> None:
        self._names, self._offsets, self._sizes = Names(), Numbers(), Numbers()

    def append(self, member: Member) -> None:
        """One more. Raises OverflowError where it ends beyond 2^63 bytes."""
        if member.offset + member.size >= 2**63:
            raise OverflowError(f"a file of {member.size} bytes")
        self._names.append(member.name.encode("utf-8", "surrogatepass"))
        self._offsets.append(member.offset)
        self._sizes.append(member.size)

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, row: int) -> Member: ...
    @overload
    def __getitem__(self, row: slice) -> list[Member]: ...
    def __getitem__(self, row: int | slice) -> Member | list[Member]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        return Member(self._names[row].decode("utf-8", "surrogatepass"), self._offsets[row], self._sizes[row])


@dataclass(kw_only=True, slots=True)
class Scan:
    """What a plain tar holds."""

    files: Members = field(default_factory=Members)
    problem: str | None = None
    """One line; None = the tar is whole."""
    skipped: Tally = field(default_factory=Tally)
    """Members that are no plain files."""


def scan(path: Path) -> Scan:
    """Reads all headers of a plain (not compressed) tar, also those of tars that were appended to it as they are.

    Raises:
        UserError: it is no plain tar.
        Outage: the file system does not give it.
    """
    found = Scan()
    with reading_from(path), path.open("rb") as file:
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


@contextmanager
def reading_from(tar: Path) -> Iterator[None]:
    """Names the tar where the file system does not give it, as one line: an ``Outage``."""
    try:
        yield
    except OSError as error:
        raise Outage(f"{tar}: cannot be read ({words(error)}); see to the file system, and try again") from error


def all_damaged(problems: Sequence[tuple[str, str]], fix: str) -> str:
    """One line about the tars that are damaged: what is wrong with the first, the names of others, and how many.

    Args:
        problems: of each, its name and what is wrong.
        fix: what to do.
    """
    (first, problem), *others = problems
    names = ", ".join(printable(name) for name, _ in others[:MOST_EXAMPLES]) + ", ..." * (len(others) > MOST_EXAMPLES)
    more = f"; {plural(len(others), 'tar')} more damaged: {names}" if others else ""
    return f"{first}: {problem}; {fix}{more}"


def _scan_archive(file: BinaryIO, found: Scan) -> int:
    """Reads one archive from where the file stands; returns where it ends."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        while True:
            try:
                member = archive.next()
                reason = member and _no_file(member)
                if member and reason is None:
                    found.files.append(Member(member.name, member.offset_data, member.size))
            except (tarfile.TarError, *_HOSTILE) as error:
                found.problem = f"truncated or damaged after {plural(len(found.files), 'file')} ({error})"
                return archive.offset
            if member is None:
                break
            if reason is not None:
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


class IdxText:
    """What ``idx_text`` makes of samples, deflated as they come: the text of a tar of a million takes 100 MB."""

    def __init__(self) -> None:
        self._count, self._packing, self._packed = 0, zlib.compressobj(1), bytearray()

    def add(self, sample: list[tuple[str, int, int, str]]) -> None:
        """One more; without a member it is none."""
        if not sample:
            return
        self._count += 1
        self._packed += self._packing.compress(_idx_line(sample).encode())

    def blocks(self) -> Iterator[bytes]:
        """The text in UTF-8, some of it at a time."""
        yield _idx_head(self._count).encode()
        unpacking = zlib.decompressobj()
        for begin in range(0, len(self._packed), IDX_BLOCK):
            yield unpacking.decompress(self._packed[begin : begin + IDX_BLOCK])
        yield unpacking.decompress(self._packing.copy().flush())


def idx_text(samples: list[list[tuple[str, int, int, str]]]) -> str:
    """The index that DALI's ``wds2idx`` would write, format v1.2, read by ``fn.readers.webdataset``.

    Args:
        samples: for each sample its members: extension, offset, size, name.
    """
    return "".join([_idx_head(len(samples)), *map(_idx_line, samples)])


def _idx_head(count: int) -> str:
    return f"v1.2 {count}\n"


def _idx_line(sample: list[tuple[str, int, int, str]]) -> str:
    return " ".join(" ".join(map(str, member)) for member in sample) + "\n"
