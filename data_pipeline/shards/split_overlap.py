"""The same picture in the part that is learned from and in one that is held out: results on that one are too good."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.terminal import plural

TRAIN = "train"
NUM_OPEN_TARS = 64


@dataclass(kw_only=True, slots=True, frozen=True)
class Overlap:
    """What two shard folders share: files that are the same, byte by byte."""

    learned: Location
    held_out: Location
    samples: list[tuple[int, int]]
    """Ids of the held-out folder, ascending, each with that of one of its copies in the other."""
    num_held_out: int
    of_frames: bool = False
    """Whether samples have frames; those are listed of which at least half are in the other folder too."""

    def __str__(self) -> str:
        held_out, learned = self.samples[0]
        if self.of_frames:
            return (
                f"{self.held_out}: {len(self.samples):,} of {plural(self.num_held_out, 'sample')}"
                f" have at least half of their"
                f" frames in {self.learned} too, byte by byte (sample {held_out} shares some with sample {learned}"
                f" there): results on them are too good; pack without the copies, or leave them out of the training"
                f" with --data.ids"
            )
        count, ending = len(self.samples), "is" if len(self.samples) == 1 else "are"
        return (
            f"{self.held_out}: {count:,} of {plural(self.num_held_out, 'image')} {ending} in"
            f" {self.learned} too, byte by byte"
            f" (sample {held_out} is sample {learned} there): results on them are too good;"
            f" pack without the copies, or leave them out of the training with --data.ids"
        )


def overlaps(folders: Iterable[Location]) -> Iterator[Overlap]:
    """Of each folder called train and its neighbours among ``folders``.

    Raises:
        UserError, Outage: as ``ShardFolder`` does.
    """
    known = list(folders)
    for learned in known:
        beside = [folder for folder in known if folder.parent == learned.parent and folder != learned]
        for held_out in beside if learned.name == TRAIN else []:
            if found := shared(ShardFolder(learned), ShardFolder(held_out)):
                yield found


def shared(learned: ShardFolder, held_out: ShardFolder) -> Overlap | None:
    """What they share; None = nothing. Only files of the same size and checksum are read.

    Raises:
        UserError, Outage: as ``ShardFolder`` does.
    """
    of_frames = learned.manifest.frames is not None and held_out.manifest.frames is not None
    ours, theirs = (shards.frames if of_frames else shards.index for shards in (learned, held_out))
    owners, their_owners = (_owners(shards) if of_frames else None for shards in (learned, held_out))
    keys, candidates = _keys(ours), _keys(theirs)
    common = np.intersect1d(keys, candidates)
    rows = np.flatnonzero(np.isin(candidates, common))
    if their_owners is not None:  # a black frame says nothing: half of a sample's must be there
        hits, counts = np.bincount(their_owners[rows], minlength=their_owners[-1] + 1), np.bincount(their_owners)
        first = np.unique(their_owners[rows], return_index=True)[1]
        rows = rows[first[2 * hits[their_owners[rows[first]]] >= counts[their_owners[rows[first]]]]]
    places = defaultdict[int, list[int]](list)
    for row in np.flatnonzero(np.isin(keys, common)).tolist():
        places[int(keys[row])].append(row)
    found: list[tuple[int, int]] = []
    with ExitStack() as stack:
        read_learned, read_held_out = (
            stack.enter_context(_Files(shards, table)).read for shards, table in ((learned, ours), (held_out, theirs))
        )
        for row in rows.tolist():
            content = read_held_out(row)
            copy = next((other for other in places[int(candidates[row])] if read_learned(other) == content), None)
            if copy is not None:
                found.append((_sample(row, their_owners), _sample(copy, owners)))
    if not found:
        return None
    return Overlap(
        learned=learned.path,
        held_out=held_out.path,
        samples=found,
        num_held_out=held_out.manifest.num_samples,
        of_frames=of_frames,
    )


def _sample(row: int, owners: np.ndarray | None) -> int:
    """Whose file it is; of images the row itself."""
    return row if owners is None else int(owners[row])


def _owners(shards: ShardFolder) -> np.ndarray:
    """The sample of each frame."""
    return np.repeat(np.arange(len(shards.clips)), shards.clips["count"].sum(1, dtype=np.int64))


def _keys(index: np.ndarray) -> np.ndarray:
    """Checksum and size of each file, in one number."""
    return index["crc32"].astype(np.uint64) << np.uint64(32) | index["size"]


class _Files:
    """The files of a shard folder that a table of INDEX_DTYPE lists."""

    def __init__(self, shards: ShardFolder, table: np.ndarray) -> None:
        self._table = table
        self._shards, self._open, self._patience = shards, dict[int, int](), Patience(10.0)

    def read(self, row: int) -> bytes:
        tar, offset, size, *_ = self._table[row].item()
        if self._shards.is_remote:
            return self._shards.read_tar(tar, offset, size)
        return self._patience.read(self._shards.tar_path(tar), lambda: os.pread(self._descriptor(tar), size, offset))

    def _descriptor(self, tar: int) -> int:
        if tar not in self._open:
            if len(self._open) >= NUM_OPEN_TARS:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[tar] = os.open(self._shards.local_tar(tar), os.O_RDONLY)
        return self._open[tar]

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
