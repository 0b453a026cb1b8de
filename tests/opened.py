"""Runs ``eyespot`` and notes which shard files it opens and hashes: python tests/opened.py NOTES pretrain mae_tiny ...

One line of NOTES per event, of all processes that share it: "open" or "hash", and the path.
"""

import os
import sys
from collections import Counter
from pathlib import Path

WATCHED = ("manifest.json", "index.npy", "masks.npy")


def opened(notes: Path) -> Counter[str]:
    """How often what happened: {"open train/manifest.json": 1, "hash train/index.npy": 1, ...}."""
    lines = [line.partition(" ") for line in notes.read_text().splitlines()]
    return Counter(f"{what} {'/'.join(Path(path).parts[-2:])}" for what, _, path in lines)


def watch(notes: str) -> None:
    """Notes what this process does from now on."""
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, path: object) -> None:
        if isinstance(path, str | os.PathLike) and os.fspath(path).endswith(WATCHED):
            os.write(file, f"{what} {os.fspath(path)}\n".encode())

    sys.addaudithook(lambda event, args: note("open", args[0]) if event == "open" else None)
    from eyespot.data_pipeline.shards.paged import table_files

    real = table_files._sha256

    def sha256(content, path):
        note("hash", path)
        return real(content, path)

    table_files._sha256 = sha256


if __name__ == "__main__":
    watch(sys.argv[1])
    from eyespot.cluster.cli import main

    sys.exit(main(sys.argv[2:]))
