"""Shard folders of format 2 whose tables do not tell the truth: verified, looked at and trained on."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile.case import Case
from hostile.manifest_inputs import DEEP, INFO, TRAINED, VERIFY, of_manifest, spoilt, with_values

from eyespot.data_pipeline.shards.paged.piece_writer import Cut, write_index
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

Spoil = Callable[[Path], Any]
PIECE, PAGES, SHARDS = "index/000000.npy", "index/pages.npy", "shards.npy"


def in_pieces(then: Spoil) -> Spoil:
    """Makes shards/train one of format 2 before it changes it."""

    def spoil(train: Path) -> None:
        found = ShardFolder(train)
        manifest = write_index(train, found.manifest, found.index, Cut(above=0, piece_rows=20, page_rows=8))
        (train / "manifest.json").write_text(manifest.to_json())
        then(train)

    return spoil


def pieces(**values: Any) -> Spoil:
    return of_manifest(lambda held: held["pieces"].update(values))


def of_table(name: str, change: Callable[[np.ndarray], np.ndarray | None], told: str) -> Spoil:
    """Changes a table, and the digest that tells of it: of the manifest, or of its pieces."""

    def spoil(train: Path) -> None:
        rows = np.load(train / name)
        changed = change(rows)
        np.save(train / name, rows if changed is None else changed)
        digest = hashlib.sha256((train / name).read_bytes()).hexdigest()
        (pieces if told == "shards_sha256" else with_values)(**{told: digest})(train)

    return spoil


def of_names(name: bytes) -> Spoil:
    return of_table(SHARDS, lambda rows: rows["tar"].__setitem__(0, name), "shards_sha256")


def of_rows(column: str, value: int) -> Spoil:
    """A lie with sound digests."""

    def spoil(train: Path) -> None:
        rows = np.load(train / PIECE)
        rows[column] = value
        np.save(train / PIECE, rows)
        pages = [hashlib.sha256(rows[begin : begin + 8].tobytes()).digest() for begin in range(0, len(rows), 8)]

        def change(digests: np.ndarray) -> None:
            digests[: len(pages)] = np.frombuffer(b"".join(pages), np.uint8).reshape(-1, 32)

        of_table(PAGES, change, "index_sha256")(train)

    return spoil


def at(name: str, do: Callable[[Path], Any]) -> Spoil:
    return lambda train: do(train / name)


TABLE: dict[str, tuple[Spoil, str]] = {
    "none": (of_manifest(lambda held: held.pop("pieces") and None), "vt"),
    "null": (with_values(pieces=None), "v"),
    "deep": (of_manifest(lambda held: f'{{"format": "eyespot-shards/2", "pieces": {DEEP}}}'), "v"),
    "samples-2^63": (pieces(samples=[2**63]), "vt"),
    "samples-none": (pieces(samples=[]), "v"),
    "samples-of-10-million-pieces": (pieces(samples=[1] * 10**7), "v"),
    "page-rows-0": (pieces(page_rows=0), "vt"),
    "page-rows-1": (pieces(page_rows=1), "vt"),
    "longest-name-0": (pieces(longest_name=0), "v"),
    "longest-name-7": (pieces(longest_name=7), "vt"),
    "shards-2^32": (pieces(num_shards=2**32), "vt"),
    "shards-in-both": (with_values(shards=[{"tar": "a.tar", "num_samples": 1, "bytes": 1, "sha256": ""}]), "v"),
    "tar-goes-up": (of_names(b"../../etc/passwd"), "vt"),
    "tar-of-a-device": (of_names(b"/dev/zero"), "vt"),
    "tar-no-utf-8": (of_names(b"\xff\xfe.tar"), "v"),
    "tar-escapes": (of_names(b"\x1b[2J.tar"), "vi"),
    "tar-bytes-2^64": (of_table(SHARDS, lambda rows: rows["bytes"].fill(2**64 - 1), "shards_sha256"), "vt"),
    "digests-of-less": (of_table(PAGES, lambda rows: rows[:-1], "index_sha256"), "vt"),
    "digests-pickled": (of_table(PAGES, lambda rows: np.array([{}] * 40), "index_sha256"), "v"),
    "piece-cut": (at(PIECE, lambda path: os.truncate(path, 300)), "vt"),
    "piece-missing": (at(PIECE, lambda path: path.unlink()), "vit"),
    "piece-of-a-pipe": (at(PIECE, lambda path: (path.unlink(), os.mkfifo(path))), "vit"),
    "piece-of-another": (at(PIECE, lambda path: path.write_bytes((path.parent / "000001.npy").read_bytes())), "vt"),
    "piece-pickled": (at(PIECE, lambda path: np.save(path, np.array([{}] * 400))), "vt"),
    "tar-of-4-billion": (of_rows("tar", 2**32 - 1), "vit"),
    "offset-2^63": (of_rows("offset", 2**63), "vt"),
    "size-0": (of_rows("size", 0), "vt"),
    "label-below-none": (of_rows("label", -2), "vit"),
}


def cases() -> list[Case]:
    """All of this file."""
    asked = {"v": ("verified", VERIFY, "told"), "i": ("shown", INFO, "either"), "t": ("trained", TRAINED, "either")}
    return [
        Case(kind="pieces", name=f"{name}-{how}", wants=wants, make=spoilt(in_pieces(spoil), commands))  # pyright: ignore[reportArgumentType]
        for name, (spoil, letters) in TABLE.items()
        for how, commands, wants in (asked[letter] for letter in letters)
    ]
