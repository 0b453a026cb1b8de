"""Makes one shard folder of all tasks' parts: the same bytes as one ``eyespot shards pack`` of the whole source writes.

A shard whose samples and ids are as its task guessed is renamed. Where an image was left out, all ids behind it are
others, and so are, where sizes changed, the borders of shards: these are copied, each byte read and written once, by
several threads. Killed at any moment, merging goes on when it is called again.
"""

import contextlib
import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files, file_locks, foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.manifest import Manifest, Shard
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.members.member_tables import MemberTables
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.packed_shard import PackedShard, added_up, sha256
from eyespot.data_pipeline.shards.parts.goal import commit, manifest_folders
from eyespot.data_pipeline.shards.parts.recut import Piece, Span, read_begins, spans, tables, write_shard
from eyespot.data_pipeline.shards.parts.task_part import (
    LOCK,
    PARTS,
    RECORD,
    PartRecord,
    Stretch,
    part_folders,
    read_record,
    shard_cuts,
    table_stem,
    task_of,
)
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import brief, plural

THREADS = min(8, len(os.sched_getaffinity(0)))


@dataclass(kw_only=True, slots=True)
class Merged:
    """What merging did."""

    manifests: dict[str, Manifest]
    """Of each split, as ``pack`` returns them."""
    num_renamed: int = 0
    """Shards that are a task's as it wrote them."""
    num_copied: int = 0
    bytes_copied: int = 0


@dataclass(kw_only=True, slots=True)
class _Shard:
    """One that is to be."""

    path: Path
    number: int
    first_id: int
    found: list[Span]
    note: Path
    """Where it is written down that it was copied."""

    @property
    def kept(self) -> Piece | None:
        """The task's shard that it is, byte by byte."""
        piece, start, stop = self.found[0]
        whole = len(self.found) == 1 and (start, stop) == (0, piece.count)
        return piece if whole and piece.written_first == self.first_id else None


def merge(root: Path, threads: int = THREADS) -> Merged:
    """Merges the parts in a folder, once all are there.

    Args:
        root: what the tasks called DST.
        threads: that copy.

    Raises:
        UserError: a part is missing, unfinished, damaged, or of another listing or other options; or the disk is full.
    """
    try:
        return _merge(root, threads)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"{error.filename or root}: {why}; mend that and merge again: eyespot shards merge {root}"
        ) from error


def _merge(root: Path, threads: int) -> Merged:
    home, merged_home = root / PARTS, root / f"{PARTS}-merged"
    shutil.rmtree(merged_home, ignore_errors=True)
    if not home.is_dir():
        if done := _done(root):
            return Merged(manifests=done)
        raise UserError(f"shards {root}: no parts there; pack them first: eyespot shards pack SRC {root} --task I/N")
    with (home / LOCK).open("w") as lock:
        if file_locks.lock(lock.fileno()) == "taken":
            raise UserError(f"shards {root}: another eyespot shards merge is at work there")
        records = _records(root)
        options, merged = records[0].options, Merged(manifests={})
        folders = manifest_folders(root)
        if any(manifest.packing.get("plan") != options["plan"] for manifest in _done(root).values()):
            raise UserError(
                f"shards {root}: holds shards of another source or other options beside the parts; move {home} into a"
                " folder of its own, and merge there"
            )
        if len(folders) < len(records[0].splits):
            found, parts = _source(records[0]), dict[str, list[PackedShard]]()
            for split in sorted(records[0].splits):
                parts[split] = _merge_split(root, split, records, merged, threads)
            merged.manifests = commit(root, found, parts, options)
        else:  # killed after the last manifest was written
            merged.manifests = _done(root)
        home.replace(merged_home)  # at once: half of the parts would look like parts that are missing
        shutil.rmtree(merged_home)
    return merged


def _done(root: Path) -> dict[str, Manifest]:
    split = {folder: "" if folder == root else folder.name for folder in manifest_folders(root)}
    return {name: ShardFolder(folder).manifest for folder, name in sorted(split.items(), key=lambda item: item[1])}


def _records(root: Path) -> list[PartRecord]:
    """Of all tasks, in their order.

    Raises:
        UserError: one is missing or does not belong to the others.
    """
    folders = part_folders(root)
    records = [read_record(folder) for folder in folders if (folder / RECORD).exists()]
    counts = sorted({task_of(folder).total for folder in folders})
    if len(counts) != 1:
        raise UserError(f"shards {root}: holds parts of {' and of '.join(map(str, counts)) or 'no'} tasks; delete some")
    there = {record.number for record in records}
    if missing := [number for number in range(counts[0]) if number not in there]:
        names = brief(", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else ""))
        raise UserError(
            f"shards {root}: of {plural(counts[0], 'task')}, {len(missing)} not finished ({names}); run the same"
            f" eyespot shards pack with --task {missing[0]}/{counts[0]}"
        )
    if others := [record.number for record in records if _packs(record) != _packs(records[0])]:
        raise UserError(
            f"shards {root}: task {others[0]} packed another source or other options than task 0; delete its part and"
            f" pack it as the others: rm -r {_part(root, records[others[0]])}"
        )
    return records


def _packs(record: PartRecord) -> tuple[str, str, list[str], list[str]]:
    """What all tasks must have packed alike."""
    return record.plan, record.name, record.classes, sorted(record.splits)


def _part(root: Path, record: PartRecord) -> Path:
    return root / PARTS / f"{record.number:04d}-of-{record.count:04d}"


def _source(record: PartRecord) -> Source:
    """What the tasks found, without the items."""
    return Source(
        name=record.name,
        splits={split: [] for split in record.splits},
        classes=record.classes,
        skipped=Tally.of(record.skipped),
        notes=record.notes,
    )


def _merge_split(root: Path, split: str, records: list[PartRecord], merged: Merged, threads: int) -> list[PackedShard]:
    folder = root / split
    folder.mkdir(exist_ok=True)
    (root / PARTS / "merged").mkdir(exist_ok=True)
    packed, pieces = _pieces(root, split, records)
    shards = _cut(folder, split, pieces, records[0].options)
    parts = [tables(shard.found, shard.number) for shard in shards] or [PackedShard()]
    _sum_up(packed, parts[0])
    with ProgressBar(f"merging {split or records[0].name}", len(shards)) as bar, ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(_place, shard) for shard in shards if shard.kept is None]
        try:
            for shard in (one for one in shards if one.kept is not None):
                parts[shard.number].shard = _place(shard)
                bar.advance()
            copied = (shard for shard in shards if shard.kept is None)
            for shard, future in zip(copied, running, strict=True):
                parts[shard.number].shard = future.result()
                bar.advance()
        finally:
            pool.shutdown(cancel_futures=True)
    ours = {shard.path.name for shard in shards}
    for tar in [*folder.glob("shard-*.tar"), *folder.glob("*.tmp")]:  # of a merge of other parts that was killed
        if tar.name not in ours:
            tar.unlink()
    merged.num_renamed += len(shards) - len(running)
    merged.num_copied += len(running)
    merged.bytes_copied += sum(future.result().bytes for future in running)
    return parts


def _pieces(root: Path, split: str, records: list[PartRecord]) -> tuple[list[PackedShard], list[Piece]]:
    """All that the tasks packed of a split, and those of it that are shards."""
    everything, pieces, first, position = list[PackedShard](), list[Piece](), 0, 0
    for record in records:
        folder, stretch = _part(root, record), record.splits[split]
        _check_stretch(root, record, stretch, position)
        position, id = stretch.stop, stretch.first
        for number in range(stretch.num_tables):
            stem = table_stem(folder, split, number)
            try:
                packed = PackedShard.load(stem)
                everything.append(packed)
                if packed.shard is None:
                    continue
                begins = read_begins(stem.with_suffix(".begins.npy"), packed)
            except (UserError, OSError, ValueError) as error:
                raise UserError(f"{stem}: damaged ({error}); pack that task again: rm -r {folder}") from error
            tar = folder / split / packed.shard.tar
            pieces.append(Piece(tar=tar, home=folder, packed=packed, begins=begins, first=first, written_first=id))
            first, id = first + len(packed.rows), id + len(packed.rows)
        known = sum(len(packed.rows) + len(packed.quarantined) for packed in everything)
        if known != position:
            raise UserError(
                f"{folder}: its tables do not tell of all items up to {position} but of {known}; pack that task again:"
                f" rm -r {folder}"
            )
    if position != records[-1].splits[split].num_items:
        raise UserError(f"shards {root}: the parts do not reach the end of {split or 'the source'}; pack them anew")
    return everything, pieces


def _check_stretch(root: Path, record: PartRecord, stretch: Stretch, position: int) -> None:
    if stretch.first != position:
        raise UserError(
            f"{_part(root, record)}: begins at item {stretch.first} where the task before ends at {position}: another"
            f" version of eyespot wrote it; delete it and pack it again"
        )


def _cut(folder: Path, split: str, pieces: list[Piece], options: dict[str, Any]) -> list[_Shard]:
    """The shards that one pack would have written."""
    sizes = np.concatenate([np.diff(piece.begins.astype(np.int64)) for piece in pieces]) if pieces else np.zeros(0)
    cuts = shard_cuts(sizes, options["max_samples"], options["max_bytes"])
    notes = folder / PARTS if not split else folder.parent / PARTS
    return [
        _Shard(
            path=folder / f"shard-{number:06d}.tar",
            number=number,
            first_id=first,
            found=spans(pieces, first, stop),
            note=notes / "merged" / f"{split or 'all'}-{number:06d}.json",
        )
        for number, (first, stop) in enumerate(itertools.pairwise(cuts))
    ]


def _sum_up(packed: list[PackedShard], into: PackedShard) -> None:
    """Puts what is summed over samples into one of them; all of it is exact in integers."""
    for part in packed:
        into.one_in = part.one_in
        into.sums, into.squares = added_up(into.sums, part.sums), added_up(into.squares, part.squares)
        into.mask_counts = [a + b for a, b in zip(into.mask_counts, part.mask_counts, strict=True)]
        into.quarantined += part.quarantined
        for kind, count in part.converted.items():
            into.converted[kind] = into.converted.get(kind, 0) + count
        for extension, bad in (part.members.left_out if part.members else {}).items():
            members = into.members or MemberTables(num_samples=0, rows={}, left_out={})
            members.left_out[extension] = [*members.left_out.get(extension, []), *bad]
            into.members = members


def _place(shard: _Shard) -> Shard:
    """Brings a shard to its place; where it is there already, that is enough."""
    if (piece := shard.kept) is not None:
        assert piece.packed.shard is not None
        line = Shard(
            tar=shard.path.name,
            num_samples=piece.count,
            bytes=piece.packed.shard.bytes,
            sha256=piece.packed.shard.sha256,
        )
        _rename(piece, shard.path, line)
        return line
    if (line := _copied(shard)) is None:
        line = write_shard(shard.path, shard.found, shard.first_id)
        atomic_files.write_bytes(shard.note, f'{{"bytes": {line.bytes}, "sha256": "{line.sha256}"}}'.encode())
    return line


def _rename(piece: Piece, path: Path, line: Shard) -> None:
    damaged = UserError(f"{piece.tar}: is damaged or gone; pack that task again: rm -r {piece.home}")
    if piece.tar.exists():
        if piece.tar.stat().st_size != line.bytes:
            raise damaged
        piece.tar.replace(path)
    elif not (path.exists() and path.stat().st_size == line.bytes and sha256(path) == line.sha256):
        raise damaged
    with contextlib.suppress(FileNotFoundError):  # it was brought here before
        piece.tar.with_suffix(".idx").replace(path.with_suffix(".idx"))
    if not path.with_suffix(".idx").exists():
        raise damaged


def _copied(shard: _Shard) -> Shard | None:
    """What an earlier call wrote, if it is whole."""
    try:
        known = foreign_json.read(shard.note, dict)
        whole = shard.path.stat().st_size == known["bytes"] and sha256(shard.path) == known["sha256"]
    except (OSError, KeyError, foreign_json.ForeignJsonError):
        return None
    if not whole or not shard.path.with_suffix(".idx").exists():
        return None
    count = sum(span.stop - span.start for span in shard.found)
    return Shard(tar=shard.path.name, num_samples=count, bytes=known["bytes"], sha256=known["sha256"])
