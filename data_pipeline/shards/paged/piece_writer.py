"""Writes the index of a shard folder: one file, or the pieces of format 2, which are written as their rows come."""

import contextlib
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.bands.stored_bands import Bands
from eyespot.data_pipeline.shards.manifest import (
    INDEX_DTYPE,
    MASK_DTYPE,
    MAX_SAMPLES,
    Manifest,
    Pieces,
    format_of,
)
from eyespot.data_pipeline.shards.paged.paged_index import DIGEST_BYTES, PAGES, piece_file
from eyespot.data_pipeline.shards.paged.shard_table import SHARDS, ShardTable


@dataclass(kw_only=True, slots=True, frozen=True)
class Cut:
    """From how many samples on an index is written in pieces, and of which size."""

    above: int = 2**22
    """Samples of the largest index that is one file: of 117 MB, which each process reads in a tenth of a second."""
    piece_rows: int = 2**20
    page_rows: int = 2**12


CUT = Cut()
WHOLE_INDEX = "index.npy"


class PieceWriter:
    """Takes the rows of an index in any portions, and writes a piece whenever it is full: it holds no more than one.

    Args:
        folder: of the shards. Pieces of an earlier index are written over.
        cut: how large a piece and a page are; None = ``CUT``.
        bands: what the images are; None = 8-bit RGB.
    """

    def __init__(self, folder: Path, cut: Cut | None = None, bands: Bands | None = None) -> None:
        self._folder, self._cut, self._format = folder, cut or CUT, format_of(bands, paged=True)
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0
        self._counts: list[int] = []
        self._digests: list[bytes] = []
        (folder / PAGES).parent.mkdir(parents=True, exist_ok=True)

    @property
    def num_samples(self) -> int:
        """Rows that were added."""
        return sum(self._counts) + self._num_waiting

    def add(self, rows: np.ndarray) -> None:
        """Rows of INDEX_DTYPE, of the samples that follow.

        Raises:
            UserError: there are more than ids can count.
            OSError: the disk is full, or the like.
        """
        check_count(self._folder, self.num_samples + len(rows))
        while self._num_waiting + len(rows) >= self._cut.piece_rows:
            fits = self._cut.piece_rows - self._num_waiting
            self._waiting.append(rows[:fits])
            self._write()
            rows = rows[fits:]
        if len(rows):
            self._waiting.append(rows.copy())  # a view would keep all of what it is a part of
            self._num_waiting += len(rows)

    def finish(self, shards: ShardTable) -> dict[str, Any]:
        """Writes what is left, the digests and the table of tars.

        Returns:
            What the manifest says of them: ``Manifest(**fields, ...)``.
        """
        if self._waiting:
            self._write()
        _remove_pieces(self._folder, len(self._counts))
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES)
        tables = {PAGES: atomic_files.npy_bytes(digests), SHARDS: atomic_files.npy_bytes(shards.rows)}
        for name, content in tables.items():
            atomic_files.write_bytes(self._folder / name, content)
        pieces = Pieces(
            samples=self._counts,
            page_rows=self._cut.page_rows,
            num_shards=len(shards),
            longest_name=shards.longest_name,
            shards_sha256=hashlib.sha256(tables[SHARDS]).hexdigest(),
        )
        index_sha256 = hashlib.sha256(tables[PAGES]).hexdigest()
        return {"shards": [], "pieces": pieces, "index_sha256": index_sha256, "format": self._format}

    def _write(self) -> None:
        rows = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting, self._num_waiting = [], 0
        for begin in range(0, len(rows), self._cut.page_rows):
            self._digests.append(hashlib.sha256(rows[begin : begin + self._cut.page_rows].tobytes()).digest())
        atomic_files.write_bytes(self._folder / piece_file(len(self._counts)), atomic_files.npy_bytes(rows))
        self._counts.append(len(rows))


def write_index(folder: Path, manifest: Manifest, rows: np.ndarray, cut: Cut | None = None) -> Manifest:
    """Writes the index that a manifest is made for, in the format that so many samples are to have.

    What lies beside images has no pieces: the index of clips, and of samples with masks or members, is one file.

    Args:
        folder: of the shards. Its manifest.json must be gone, or must not have been there: the index is another now.
        manifest: with its shards; what it says of the index plays no part.
        rows: (num_samples,) of INDEX_DTYPE.
        cut: from how many samples on it is cut; None = ``CUT``.

    Returns:
        The manifest as it is to be written, with its shards, which ``to_json`` leaves out in format 2.

    Raises:
        UserError: there are more samples than ids can count.
        OSError: the disk is full, or the like.
    """
    check_count(folder, len(rows))
    fields = {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}
    beside = manifest.masks or manifest.frames or manifest.members
    if len(rows) <= (cut or CUT).above or beside:
        content = atomic_files.npy_bytes(rows)
        atomic_files.write_bytes(folder / WHOLE_INDEX, content)
        digest, shards = hashlib.sha256(content).hexdigest(), list(manifest.shards)
        fields |= {"shards": shards, "index_sha256": digest, "pieces": None}
        fields["format"] = format_of(manifest.bands)
        if len(rows) > (cut or CUT).above:
            fields["notes"] = [*manifest.notes, _note_on_size(manifest, len(rows))]
        made = Manifest(**fields)
    else:
        writer, shards = PieceWriter(folder, cut, manifest.bands), ShardTable.of(manifest.shards)
        writer.add(rows)
        made = Manifest(**fields | writer.finish(shards))
        made.shards = shards
    _remove_others(folder, paged=made.pieces is not None)
    return made


def _note_on_size(manifest: Manifest, count: int) -> str:
    """What follows from so many samples whose index is one file."""
    rows = count + (manifest.frames.num_frames if manifest.frames else 0)
    beside = count * (len(manifest.members) + (manifest.masks is not None))
    return (
        f"{count:,} samples with files beside their images, or of many frames: an index of such is one file, and each"
        f" process that reads these holds {(INDEX_DTYPE.itemsize * rows + MASK_DTYPE.itemsize * beside) / 1e9:.2g} GB"
        " or more; cut it into several shard folders and mix those that fit, or pack the images alone"
    )


def check_count(folder: Path, count: int) -> None:
    """Whether ids count so many samples.

    Raises:
        UserError: they do not: an id has 32 bits.
    """
    if count > MAX_SAMPLES:
        raise UserError(
            f"shards {folder}: {count:,} samples are more than ids of 32 bits count ({MAX_SAMPLES:,});"
            " cut the data into several shard folders"
        )


def _remove_others(folder: Path, *, paged: bool) -> None:
    """What an earlier index of the other format left."""
    if paged:
        (folder / WHOLE_INDEX).unlink(missing_ok=True)
        return
    for name in (SHARDS, PAGES):
        (folder / name).unlink(missing_ok=True)
    _remove_pieces(folder, 0)
    with contextlib.suppress(OSError):  # not there, or not empty
        (folder / PAGES).parent.rmdir()


def _remove_pieces(folder: Path, first: int) -> None:
    """Those of an earlier index, from that number on."""
    for number in itertools.count(first):
        try:
            (folder / piece_file(number)).unlink()
        except OSError:  # there are no more
            return
