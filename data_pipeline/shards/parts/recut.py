"""Writes a shard out of the samples of others: their bytes as they are, but for the ids in their members' names."""

import itertools
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import MASK_DTYPE, Shard
from eyespot.data_pipeline.shards.members.member_tables import MemberTables
from eyespot.data_pipeline.shards.members.tar_members import BLOCK, idx_text
from eyespot.data_pipeline.shards.packed_shard import PackedShard, read_table
from eyespot.data_pipeline.shards.shard_writer import HashingFile

CHUNK = 1 << 22
_NAME, _SUM = slice(0, 100), slice(148, 156)
"""Of the name and the checksum in a USTAR header."""
Line = list[tuple[str, int, int, str]]
"""Of one sample its members in a tar: extension, offset, size, name."""


@dataclass(kw_only=True)
class Piece:
    """A shard of one task, and where its samples come in the whole."""

    tar: Path
    home: Path
    """What to delete so that its task packs it again."""
    packed: PackedShard
    begins: np.ndarray
    """(num_samples + 1,): of each sample in the tar, bytes, and the end of the last one."""
    first: int
    """Id of its first sample in the whole."""
    written_first: int
    """Id by which its first sample is called in the tar."""

    @property
    def count(self) -> int:
        """Samples."""
        return len(self.begins) - 1

    def lines(self) -> list[Line]:
        """What the tar's .idx says of each sample."""
        found = list[Line]()
        try:
            for line in self.tar.with_suffix(".idx").read_text().splitlines()[1:]:
                words = iter(line.split(" "))
                members = zip(words, words, words, words, strict=True)
                found.append([(end, int(offset), int(size), name) for end, offset, size, name in members])
        except ValueError as error:  # no numbers, other fields, no UTF-8
            raise _no_idx(self) from error
        if len(found) != self.count:
            raise _no_idx(self)
        return found


class Span(NamedTuple):
    """Some samples of a piece, that follow each other in its tar."""

    piece: Piece
    start: int
    stop: int
    """Numbers within the piece."""

    @property
    def begin(self) -> int:
        """Of the first sample in the tar, bytes."""
        return int(self.piece.begins[self.start])

    @property
    def end(self) -> int:
        """Of the last sample in the tar, bytes."""
        return int(self.piece.begins[self.stop])


def read_begins(path: Path, packed: PackedShard) -> np.ndarray:
    """Where each sample of a task's shard begins, and the last ends.

    Raises:
        OSError, ValueError: it cannot be read, or is not of that shard.
    """
    begins = read_table(path, np.dtype("<u8"), len(packed.rows) + 1)
    ends = int(begins[-1]) if packed.shard is None else packed.shard.bytes
    if begins[0] != 0 or (begins[1:] <= begins[:-1]).any() or int(begins[-1]) > ends:
        raise ValueError("its samples do not follow each other")
    return begins


def spans(pieces: Sequence[Piece], first: int, stop: int) -> list[Span]:
    """Where the samples with the ids first..stop - 1 lie."""
    number = int(np.searchsorted([piece.first for piece in pieces], first, side="right")) - 1
    found: list[Span] = []
    while first < stop:
        piece = pieces[number]
        end = min(stop, piece.first + piece.count)
        found.append(Span(piece, first - piece.first, end - piece.first))
        first, number = end, number + 1
    return found


def tables(found: Sequence[Span], number: int) -> PackedShard:
    """The rows of shard ``number`` made of these samples; without its line, and without what is summed over samples."""
    rows, masks, members, at = [], [], [], 0
    for span in found:
        packed, shift = span.piece.packed, at - span.begin
        some = packed.rows[span.start : span.stop].copy()
        some["tar"] = number
        rows.append(_moved(some, shift))
        masks.append(_moved(_some_of(packed.masks, span), shift))
        beside = packed.members.rows if packed.members else {}
        moved = {extension: _moved(_some_of(table, span), shift) for extension, table in beside.items()}
        members.append(MemberTables(num_samples=len(some), rows=moved, left_out={}))
        at += span.end - span.begin
    whole = np.concatenate(masks)
    return PackedShard(
        rows=np.concatenate(rows),
        masks=whole if whole["size"].any() else whole[:0],
        members=MemberTables.joined(members),
    )


def _some_of(table: np.ndarray, span: Span) -> np.ndarray:
    """Rows of a table that is empty where no sample has such a thing."""
    return table[span.start : span.stop].copy() if len(table) else np.zeros(span.stop - span.start, MASK_DTYPE)


def _moved(rows: np.ndarray, shift: int) -> np.ndarray:
    there = rows["size"] > 0
    rows["offset"][there] = (rows["offset"].astype(np.int64) + shift)[there].astype(np.uint64)
    return rows


def write_shard(path: Path, found: Sequence[Span], first_id: int) -> Shard:
    """Writes a tar of these samples, as ``ShardWriter`` would have, and its .idx beside it.

    Args:
        path: of the tar.
        found: its samples.
        first_id: of the first of them; samples are called by their ids.

    Raises:
        UserError: a piece is not what was written.
    """
    temporary, lines, at = path.with_name(path.name + ".tmp"), list[Line](), 0
    file = HashingFile(temporary)
    try:
        for span in found:
            piece, shift, id = span.piece, at - span.begin, first_id + len(lines)
            with piece.tar.open("rb") as source:
                same = piece.written_first + span.start == id
                for data in _whole(source, span) if same else _renamed(source, span, id):
                    file.write(data)
            for line in piece.lines()[span.start : span.stop]:
                key = f"{first_id + len(lines):08d}"
                lines.append([(end, offset + shift, size, f"{key}.{end}") for end, offset, size, _ in line])
            at += span.end - span.begin
        file.write(bytes(-(-(at + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - at))
        size, sha256 = file.finish()
    except BaseException:
        file.abandon()
        temporary.unlink(missing_ok=True)
        raise
    atomic_files.write_bytes(path.with_suffix(".idx"), idx_text(lines).encode())
    atomic_files.commit(temporary, path)
    return Shard(tar=path.name, num_samples=len(lines), bytes=size, sha256=sha256)


def _whole(source: BinaryIO, span: Span) -> Iterator[bytes]:
    """The samples' bytes as they are."""
    source.seek(span.begin)
    left = span.end - span.begin
    while left:
        data = source.read(min(CHUNK, left))
        if not data:
            raise _cut_short(span.piece)
        yield data
        left -= len(data)


def _renamed(source: BinaryIO, span: Span, id: int) -> Iterator[bytes]:
    """The samples' bytes, called by other ids, from ``id`` on."""
    source.seek(span.begin)
    begins = span.piece.begins[span.start : span.stop + 1].tolist()
    lines = span.piece.lines()[span.start : span.stop]
    for number, (begin, end) in enumerate(itertools.pairwise(begins)):
        data = bytearray(source.read(end - begin))
        if len(data) < end - begin:
            raise _cut_short(span.piece)
        for _, offset, _, name in lines[number]:
            _rename(data, offset - begin - BLOCK, name, f"{id + number:08d}", span.piece)
        yield bytes(data)


def _rename(data: bytearray, header: int, name: str, key: str, piece: Piece) -> None:
    """Writes another key into a member's USTAR header, and the header's new checksum."""
    before = name.encode()
    after = key.encode() + before[before.index(b".") :]
    here = slice(header + _NAME.start, header + _NAME.stop)
    if data[here].rstrip(b"\0") != before:
        raise UserError(f"{piece.tar}: is not what its .idx says; pack that task again: rm -r {piece.home}")
    data[here] = after.ljust(_NAME.stop, b"\0")
    place = slice(header + _SUM.start, header + _SUM.stop)
    total = int(data[place].rstrip(b"\0 "), 8) + sum(after) - sum(before)
    data[place] = b"%06o\0 " % total


def _no_idx(piece: Piece) -> UserError:
    return UserError(f"{piece.tar.with_suffix('.idx')}: is damaged; pack that task again: rm -r {piece.home}")


def _cut_short(piece: Piece) -> UserError:
    return UserError(f"{piece.tar}: is cut short; pack that task again: rm -r {piece.home}")
