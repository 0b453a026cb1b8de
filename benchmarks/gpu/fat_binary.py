"""Walks the GPU code inside a shared library: containers in .nv_fatbin, in each an entry per architecture."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SECTIONS = (".nv_fatbin", "__nv_relfatbin")
"""Of an ELF file, in which nvcc leaves code for GPUs."""
CUBIN = 2
"""Kind of an entry that holds machine code; 1 is PTX, which the driver compiles."""
_MAGIC = 0xBA55ED50


@dataclass(kw_only=True, slots=True, frozen=True)
class Entry:
    """Code for one architecture; all in bytes from the file's begin."""

    begin: int
    end: int
    kind: int
    architecture: int
    """90 for sm_90."""


def sections(library: bytes) -> list[tuple[str, int, int]]:
    """Name, offset and size of each section of a 64-bit ELF file."""
    table = struct.unpack_from("<Q", library, 0x28)[0]
    entry_size, count, names_index = struct.unpack_from("<HHH", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", library, table + number * entry_size) for number in range(count)]
    names = headers[names_index][4]
    return [
        (library[names + header[0] : library.index(b"\0", names + header[0])].decode(), header[4], header[5])
        for header in headers
    ]


def entries(library: bytes) -> Iterator[Entry]:
    """Every entry; ``begin`` is where its code begins, behind its header."""
    for name, offset, size in sections(library):
        if name in SECTIONS:
            yield from _entries(library, offset, offset + size)


def _entries(library: bytes, at: int, end: int) -> Iterator[Entry]:
    while at + 16 <= end:
        magic, _, header_size, content_size = struct.unpack_from("<IHHQ", library, at)
        if magic != _MAGIC:
            at += 8  # containers are aligned so
            continue
        inner, at = at + header_size, at + header_size + content_size
        while inner < at:
            kind, _, own_header, code_size = struct.unpack_from("<HHIQ", library, inner)
            architecture = struct.unpack_from("<I", library, inner + 28)[0]
            begin = inner + own_header
            yield Entry(begin=begin, end=begin + code_size, kind=kind, architecture=architecture)
            inner = begin + code_size
