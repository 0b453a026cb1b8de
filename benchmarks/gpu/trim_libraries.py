"""Zeroes the code for all GPUs but one inside shared libraries, and strips their symbols, so that they pack small.

python benchmarks/gpu/trim_libraries.py ARCHITECTURE LIBRARY.so ...        90 for sm_90; in place; needs binutils
"""

import subprocess
import sys
from pathlib import Path

from fat_binary import CUBIN, entries


def trimmed(library: bytes, architecture: int) -> bytes:
    """The library with zeroes for code that this GPU does not run; PTX goes, too. Nothing in it moves."""
    made = bytearray(library)
    for entry in entries(library):
        if (entry.kind, entry.architecture) != (CUBIN, architecture):
            made[entry.begin : entry.end] = bytes(entry.end - entry.begin)
    return bytes(made)


def main() -> None:
    architecture, *paths = sys.argv[1:]
    for path in map(Path, paths):
        subprocess.run(["strip", "--strip-unneeded", path], check=False)  # some have nothing that can go
        path.write_bytes(trimmed(path.read_bytes(), int(architecture)))


if __name__ == "__main__":
    main()
