"""Archives as sources of images: tars, compressed or not, and zips -> where the bytes of their files lie.

The files of a zip are read where they lie. What is compressed as a whole is first written once, plainly, into a spool
folder, so that its files can be read in any order.
"""

import errno
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import SUFFIXES
from eyespot.data_pipeline.shards.members.skipped import Tally, hidden, no_image
from eyespot.data_pipeline.shards.members.tar_members import reading_from

TAR = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz)$", re.IGNORECASE)
"""How the names of tars end."""
LARGEST = 2**32 - 1
"""Bytes of one file: the index stores sizes in 32 bits."""
_BLOCK = 1 << 20
GROWTH, SMALL = 200, 2**26
"""A file in a zip that grows more than so many times, and is larger than that many bytes, is a bomb."""


_LOCAL = struct.Struct("<4s5H3L2H")
"""What stands before a file in a zip."""
_DESCRIBED_LATER = 8
"""The flag of a zip that was written into a pipe: checksum and sizes follow the file."""


class Inside(str):
    """The path of a file whose parts are not plain bytes. A ``Place``'s offset is then what says which part."""

    __slots__ = ()

    def read(self, offset: int, size: int) -> bytes:
        """The bytes of a part; it has ``size`` of them."""
        raise NotImplementedError


class InZip(Inside):
    """A zip; offsets are those of the files' headers."""

    __slots__ = ()

    def read(self, offset: int, size: int) -> bytes:
        """The bytes of one file, which were stored or deflated.

        Raises:
            OSError: they are not what was listed.
        """
        with open(self, "rb", buffering=0) as file:  # noqa: PTH123
            header = os.pread(file.fileno(), _LOCAL.size, offset)
            changed = OSError(errno.ESTALE, "changed while it was packed", str(self))
            if len(header) < _LOCAL.size:
                raise changed
            _, _, flags, method, _, _, crc32, _, _, *lengths = _LOCAL.unpack(header)
            begin = offset + _LOCAL.size + sum(lengths)
            if method == zipfile.ZIP_STORED:
                data = os.pread(file.fileno(), size, begin)
            else:
                data = _inflated(file.fileno(), begin, size)
        if len(data) != size or (not flags & _DESCRIBED_LATER and zlib.crc32(data) != crc32):
            raise changed
        return data


class Place(NamedTuple):
    """Where the bytes of a file lie."""

    path: str
    offset: int
    size: int
    """Bytes; -1 = there is no such file."""

    def read(self) -> bytes:
        """The bytes."""
        if isinstance(self.path, Inside):
            return self.path.read(self.offset, self.size)
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123 (a million times: no Path for each)
            return os.pread(file.fileno(), self.size, self.offset)


def plain_tar(path: Path, spool: Path, number: int = 0) -> Path:
    """The tar itself, or where it was unpacked to, in ``spool``; what a killed pack left of that number is replaced.

    Raises:
        UserError: it is no tar, or a damaged one.
        Outage: the file system does not give it.
    """
    with reading_from(path):
        is_tar = tarfile.is_tarfile(path)
    if not is_tar:
        raise UserError(
            f"source {path}: neither a folder nor a tar archive (.tar, .tar.gz, .tar.bz2, .tar.xz), nor a zip of images"
        )
    try:
        with tarfile.open(path, "r:"):
            return path
    except tarfile.ReadError:
        return _unpack(path, spool / f"source{number or ''}.tar")


def zip_files(path: Path, spool: Path, skipped: Tally, also: frozenset[str] = frozenset()) -> list[tuple[str, Place]]:
    """The files of a zip, images and those of some other suffixes, each read once to see that it is whole.

    The others are counted. What is neither stored nor deflated is written into ``spool``.

    Raises:
        UserError: it is damaged, encrypted or packed in a way that Python does not read.
    """
    target, inside = spool / "source.zip.raw", InZip(path)
    found: list[tuple[str, Place]] = []
    try:
        with zipfile.ZipFile(path) as archive, target.open("wb") as file:
            _check_room(path, archive, target)
            for member in archive.infolist():
                # DOS programs write backslashes.
                name = member.filename if "/" in member.filename else member.filename.replace("\\", "/")
                if (reason := _not_taken(member, name, also)) is not None:
                    skipped.add(reason, name)
                    continue
                is_plain, begin, size = _is_plain(member), file.tell(), 0
                with archive.open(member) as stream:
                    while block := stream.read(_BLOCK):
                        size += len(block) if is_plain else file.write(block)
                found.append(
                    (name, Place(inside, member.header_offset, size) if is_plain else Place(str(target), begin, size))
                )
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        # RuntimeError: encrypted, or NotImplementedError: a compression that Python does not have
        raise UserError(f"source {path}: a zip that cannot be read ({error}); unpack it and pack the folder") from error
    return found


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Whether it can be read where it lies."""
    return member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _inflated(file: int, begin: int, size: int) -> bytes:
    """What was deflated, from a place of a file on; at most one byte more than ``size``."""
    stream, data = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    try:
        while len(data) <= size and not stream.eof and (block := os.pread(file, min(_BLOCK, size + 512), begin)):
            begin += len(block)
            data += stream.decompress(block, size + 1 - len(data))
    except zlib.error:
        return b""
    return bytes(data)


def _check_room(path: Path, archive: zipfile.ZipFile, target: Path) -> None:
    """Whether the disk takes what is unpacked, before it is full."""
    needed = sum(member.file_size for member in archive.infolist() if not _is_plain(member))
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise UserError(
            f"source {path}: unpacks to {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free where it is packed to"
        )


def _not_taken(member: zipfile.ZipInfo, name: str, also: frozenset[str]) -> str | None:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if member.is_dir() or not parts:
        return "a folder"
    if (reason := hidden(parts)) is not None:
        return reason
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.file_size > LARGEST:
        return "a file of 4 GiB or more"
    if member.file_size > max(SMALL, GROWTH * member.compress_size):
        return f"a file that grows more than {GROWTH} times when it is unpacked (a bomb)"
    return None if Path(name).suffix.lower() in SUFFIXES | also else no_image(name)


def _unpack(path: Path, target: Path) -> Path:
    """Decompresses a tar.gz, tar.bz2 or tar.xz once."""
    with tarfile.open(path, "r:*") as archive, target.open("wb") as file:
        stream: Any = archive.fileobj  # decompressed, not yet parsed
        stream.seek(0)
        while True:
            try:
                block = stream.read(_BLOCK)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise UserError(f"source {path}: damaged archive ({error}); fetch it again") from error
            if not block:
                return target
            file.write(block)
