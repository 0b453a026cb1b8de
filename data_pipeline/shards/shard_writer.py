"""Writes one shard: a tar, to the byte that of WebDataset's TarWriter, and its index in DALI's wds2idx text format."""

import contextlib
import errno
import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
        self._path = folder / f"shard-{number:06d}.tar"
        self._temporary = self._path.with_name(self._path.name + ".tmp")
        self._tar = _Tar(self._temporary)
        self._number = number
        self._next_id = first_id
        self._rows: list[tuple[int, ...]] = []
        self._masks: list[tuple[int, ...]] = []
        self._samples: list[list[tuple[str, int, int, str]]] = []
        self._frames = FrameRows()
        self._beside = MemberRows()
        self._ready: tuple[Examined, Item, dict[str, bytes | _Kept]] | None = None

    def has_room(self, image: Examined, item: Item, max_samples: int, max_bytes: int) -> bool:
        """Whether one more sample keeps the tar within its limits."""
        self._ready = image, item, (members := _members(image, item))
        needed = sum(BLOCK + _padded(len(data)) for data in members.values()) + tarfile.RECORDSIZE
        return len(self._rows) < max_samples and self._tar.offset + needed <= max_bytes

    def add(self, image: Examined, item: Item) -> None:
        """Writes one sample: the image or its frames, its label, and where it comes from."""
        key = f"{self._next_id:08d}"
        of, by, members = self._ready or (None, None, {})
        if of is not image or by is not item:
            members = _members(image, item)
        self._ready = None
        sample, places = [], dict[str, tuple[int, int]]()
        for extension, data in sorted(members.items()):  # TarWriter's own order
            name = f"{key}.{extension}"
            places[extension] = self._tar.add(name, data if isinstance(data, bytes) else data.read()), len(data)
            sample.append((extension, *places[extension], name))
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
        size, sha256 = self._tar.finish()
        atomic_files.write_bytes(self._path.with_suffix(".idx"), idx_text(self._samples).encode())
        atomic_files.commit(self._temporary, self._path)
        shard = Shard(tar=self._path.name, num_samples=len(self._rows), bytes=size, sha256=sha256)
        masks, frames = np.array(self._masks, MASK_DTYPE), self._frames.tables()
        if not masks["size"].any() and not (frames and frames.has_masks):
            masks = masks[:0]
        return shard, np.array(self._rows, INDEX_DTYPE), masks, frames, self._beside.tables()

    def discard(self) -> None:
        """Leaves nothing of an unfinished shard."""
        self._tar.abandon()
        self._temporary.unlink(missing_ok=True)


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


class HashingFile:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._sha256 = hashlib.sha256()
        self.offset = 0
        """Bytes written."""

    def write(self, data: bytes) -> None:
        """Appends."""
        self._sha256.update(data)
        self._file.write(data)
        self.offset += len(data)

    def finish(self) -> tuple[int, str]:
        """Forces everything to disk; returns the number of bytes and their digest."""
        self._file.flush()
        sync(self._file.fileno())
        self._file.close()
        return self.offset, self._sha256.hexdigest()

    def abandon(self) -> None:
        """Closes it, whatever is in it."""
        with contextlib.suppress(OSError):  # the disk is full: what is buffered cannot be written, and need not be
            self._file.close()


class _Tar(HashingFile):
    """A plain tar: USTAR headers with nothing of the machine or the hour in them."""

    def add(self, name: str, data: bytes) -> int:
        """One member; returns where its bytes lie."""
        begin = self.offset + BLOCK
        self.write(b"".join((_header(name, len(data)), data, bytes(-len(data) % BLOCK))))
        return begin

    def finish(self) -> tuple[int, str]:
        """Ends the archive, and as every file."""
        end = bytes(2 * BLOCK)
        self.write(end + bytes(-(self.offset + len(end)) % tarfile.RECORDSIZE))
        return super().finish()


@cache
def _blank_header() -> tuple[bytes, int]:
    """A header of no name and no bytes, and the sum of its bytes, the field of the sum itself counted as blanks."""
    member = tarfile.TarInfo("")
    member.mode = 0o444
    header = member.tobuf(tarfile.USTAR_FORMAT)
    return header, sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")


def _header(name: str, size: int) -> bytes:
    """What ``tarfile`` writes before a member, in a fifth of its time."""
    header, total = _blank_header()
    text, digits = name.encode("ascii"), b"%011o" % size
    assert len(text) <= 100 and len(digits) == 11, "no plain USTAR header holds it"
    checksum = total + sum(text) + sum(digits) - sum(header[124:135])
    return b"".join(
        (text.ljust(100, b"\0"), header[100:124], digits, header[135:148], b"%06o\0" % checksum, header[155:])
    )
