"""Writes one shard: a tar through WebDataset's own TarWriter, and its index in DALI's wds2idx text format."""

import contextlib
import errno
import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.atomic_files import sync
from eyespot.data_pipeline.shards.clips.frame_rows import FrameRows
from eyespot.data_pipeline.shards.frames import FrameTables, frame_names
from eyespot.data_pipeline.shards.image_check import Examined, ExaminedClip
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, MASK_DTYPE, MASK_EXTENSION, Shard
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.items import Item
from eyespot.data_pipeline.shards.members.member_tables import MemberRows, MemberTables
from eyespot.data_pipeline.shards.members.tar_members import BLOCK, idx_text


class ShardWriter:
    """shard-NNNNNN.tar, under a temporary name until it is complete.

    Args:
        folder: where it goes.
        number: of the shard.
        first_id: sample id of its first sample; the samples' keys are their ids.
    """

    def __init__(self, folder: Path, number: int, first_id: int):
        from webdataset.writer import TarWriter  # here and not above: it imports torch

        self._path = folder / f"shard-{number:06d}.tar"
        self._temporary = self._path.with_name(self._path.name + ".tmp")
        self._file = _HashingFile(self._temporary)
        file: Any = self._file  # all that a TarWriter asks of a file is write()
        self._tar = TarWriter(file, user="", group="", encoder=False, mtime=0, format=tarfile.USTAR_FORMAT)
        self._number = number
        self._next_id = first_id
        self._rows: list[tuple[int, ...]] = []
        self._masks: list[tuple[int, ...]] = []
        self._samples: list[list[tuple[str, int, int, str]]] = []
        self._frames = FrameRows()
        self._beside = MemberRows()

    def has_room(self, image: Examined, item: Item, max_samples: int, max_bytes: int) -> bool:
        """Whether one more sample keeps the tar within its limits."""
        needed = sum(BLOCK + _padded(len(data)) for data in _members(image, item).values()) + tarfile.RECORDSIZE
        return len(self._rows) < max_samples and self._offset + needed <= max_bytes

    def add(self, image: Examined, item: Item) -> None:
        """Writes one sample: the image or its frames, its label, and where it comes from."""
        key = f"{self._next_id:08d}"
        members = _members(image, item)
        offset, sample, places = self._offset, [], dict[str, tuple[int, int]]()
        for extension, data in sorted(members.items()):  # TarWriter's own order
            offset += BLOCK
            sample.append((extension, offset, len(data), f"{key}.{extension}"))
            places[extension] = offset, len(data)
            offset += _padded(len(data))
            self._tar.write({"__key__": key, extension: data if isinstance(data, bytes) else data.read()})
        assert self._offset == offset, "the tar writer did not write plain USTAR headers"
        self._samples.append(sample)
        self._next_id += 1
        names = _frame_names(image.clip) if image.clip else [""]
        images = image.clip.frames if image.clip else [image]
        named = list(zip(names, images, strict=True))
        rows = [self._row(places[_named(name, one.extension)], one, item.label) for name, one in named]
        masks = [
            (*places[_named(name, MASK_EXTENSION)], one.mask.crc32) if one.mask else (0, 0, 0) for name, one in named
        ]
        self._rows.append(rows[0])
        self._masks.append(masks[0])
        self._beside.add(item.name, image.members, places)
        if image.clip:
            self._frames.add(image.clip, rows, masks)

    def _row(self, place: tuple[int, int], image: Examined, label: int) -> tuple[int, ...]:
        return (self._number, *place, image.crc32, image.height, image.width, label)

    def close(self) -> tuple[Shard, np.ndarray, np.ndarray, FrameTables | None, MemberTables]:
        """Completes the tar and its index.

        Returns:
            Its line in the manifest, its rows of the index, of masks if any, its tables of frames if any, of members.
        """
        self._tar.close()
        size, sha256 = self._file.finish()
        atomic_files.write_bytes(self._path.with_suffix(".idx"), idx_text(self._samples).encode())
        atomic_files.commit(self._temporary, self._path)
        shard = Shard(tar=self._path.name, num_samples=len(self._rows), bytes=size, sha256=sha256)
        masks, frames = np.array(self._masks, MASK_DTYPE), self._frames.tables()
        if not masks["size"].any() and not (frames and frames.has_masks):
            masks = masks[:0]
        return shard, np.array(self._rows, INDEX_DTYPE), masks, frames, self._beside.tables()

    def discard(self) -> None:
        """Leaves nothing of an unfinished shard."""
        self._file.abandon()
        self._temporary.unlink(missing_ok=True)

    @property
    def _offset(self) -> int:
        tar: Any = self._tar.tarstream
        return tar.offset


@dataclass(frozen=True, slots=True)
class _Kept:
    """A frame that stays as it lies in the source, where it is read once more."""

    place: Place
    crc32: int

    def __len__(self) -> int:
        return self.place.size

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: they are not there any more, or are others.
        """
        data = self.place.read()
        if len(data) != len(self) or zlib.crc32(data) != self.crc32:
            raise OSError(errno.ESTALE, "changed while it was packed", self.place.path)
        return data


def _members(image: Examined, item: Item) -> dict[str, bytes | _Kept]:
    notes: dict[str, str | float] = {"source": item.name}
    members: dict[str, bytes | _Kept] = {}
    places = item.frames.places if item.frames else ()
    if clip := image.clip:
        notes |= {"rate": clip.rate} if clip.rate else {}
        if clip.sound and not (clip.sound[0] in image.members and image.members[clip.sound[0]].problem):
            members[clip.sound[0]] = clip.sound[1]
    named = zip(_frame_names(clip), clip.frames, strict=True) if clip else [("", image)]
    for number, (name, frame) in enumerate(named):
        members[_named(name, frame.extension)] = frame.data or _Kept(places[number], frame.crc32)
        if frame.mask is not None:
            members[_named(name, MASK_EXTENSION)] = frame.mask.data
    members |= {name: member.data for name, member in image.members.items() if not member.problem}
    members["json"] = json.dumps(notes).encode()
    if item.label >= 0:
        members["cls"] = str(item.label).encode()
    return members


def _frame_names(clip: ExaminedClip) -> list[str]:
    return frame_names(clip.streams, len(clip.frames) // len(clip.streams))


def _named(frame: str, extension: str) -> str:
    """What follows the key of a member: 007.jpg, or jpg of a sample that is one image."""
    return f"{frame}.{extension}" if frame else extension


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class _HashingFile:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path):
        self._file = path.open("wb", buffering=1 << 20)
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        if self._file.closed:  # abandoned: what the tar still buffers, it writes when Python deletes it
            return len(data)
        self._sha256.update(data)
        return self._file.write(data)

    def finish(self) -> tuple[int, str]:
        """Forces everything to disk; returns the number of bytes and their digest."""
        self._file.flush()
        sync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return size, self._sha256.hexdigest()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # the disk is full: what is buffered cannot be written, and need not be
            self._file.close()
