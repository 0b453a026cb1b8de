"""What one finished shard adds to its split: kept beside the shards while packing, so that a killed pack goes on."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.plain_files import open_plain
from eyespot.data_pipeline.shards.frames import FrameTables
from eyespot.data_pipeline.shards.image_check import Examined
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, MASK_DTYPE, Shard
from eyespot.data_pipeline.shards.members.member_tables import MemberTables

_MASK_VALUES = 256


class _Noted(TypedDict):
    """What of a ``PackedShard`` is kept as JSON."""

    next: int
    sums: list[int]
    squares: list[int]
    one_in: int
    converted: dict[str, int]
    quarantined: list[dict[str, str]]
    mask_counts: list[int]
    shard: Shard | None


@dataclass(kw_only=True, slots=True)
class PackedShard:
    """What one finished shard adds to its split."""

    next: int = 0
    """Position in the split's order of the first item that is not in this part."""
    shard: Shard | None = None
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, INDEX_DTYPE))
    sums: list[int] = field(default_factory=list)
    """Of each channel, once there is an image."""
    squares: list[int] = field(default_factory=list)
    one_in: int = 1
    """Of how many images one was summed (pixels/pixel_sums.py)."""
    converted: dict[str, int] = field(default_factory=dict)
    quarantined: list[dict[str, str]] = field(default_factory=list)
    masks: np.ndarray = field(default_factory=lambda: np.empty(0, MASK_DTYPE))
    mask_counts: list[int] = field(default_factory=lambda: [0] * _MASK_VALUES)
    frames: FrameTables | None = None
    members: MemberTables | None = None

    def count(self, image: Examined) -> None:
        """Takes in what a sample adds to the statistics."""
        self.sums, self.squares = added_up(self.sums, image.sums), added_up(self.squares, image.squares)
        for frame in image.clip.frames if image.clip else [image]:
            if frame.mask is not None:
                self.mask_counts = [a + b for a, b in zip(self.mask_counts, frame.mask.counts, strict=True)]
            if frame.kind is not None:
                self.converted[frame.kind] = self.converted.get(frame.kind, 0) + 1

    def save(self, stem: Path) -> None:
        """Writes STEM.npy, then what masks, frames and members there are, then STEM.json; the last makes it count."""
        atomic_files.write_bytes(stem.with_suffix(".npy"), atomic_files.npy_bytes(self.rows))
        if len(self.masks):
            atomic_files.write_bytes(stem.with_suffix(".masks.npy"), atomic_files.npy_bytes(self.masks))
        if self.frames:
            atomic_files.write_bytes(stem.with_suffix(".npz"), _npz(**_fields(self.frames)))
        if self.members and self.members.rows:
            kept = _npz(left_out=np.array(json.dumps(self.members.left_out)), **self.members.rows)
            atomic_files.write_bytes(stem.with_suffix(".members.npz"), kept)
        fields = {name: getattr(self, name) for name in _Noted.__annotations__}
        text = json.dumps({**fields, "shard": self.shard and asdict(self.shard)})
        atomic_files.write_bytes(stem.with_suffix(".json"), text.encode())

    @classmethod
    def load(cls, stem: Path) -> "PackedShard":
        """Reads what ``save`` wrote; UserError, OSError or ValueError where it is damaged."""
        fields = foreign_json.read(stem.with_suffix(".json"), _Noted)
        part = cls(**fields, rows=read_table(stem.with_suffix(".npy"), INDEX_DTYPE))
        if stem.with_suffix(".masks.npy").exists():
            part.masks = read_table(stem.with_suffix(".masks.npy"), MASK_DTYPE, len(part.rows))
        if stem.with_suffix(".npz").exists():
            with _zipped(stem.with_suffix(".npz")) as kept:
                tables = {name: kept[name] for name in ("rows", "clips", "motion", "masks")}
                part.frames = FrameTables(streams=tuple(kept["streams"].tolist()), **tables)
        if stem.with_suffix(".members.npz").exists():
            with _zipped(stem.with_suffix(".members.npz")) as kept:
                left_out = json.loads(str(kept["left_out"]))
                tables = {name: checked(kept[name], MASK_DTYPE, len(part.rows)) for name in kept if name != "left_out"}
            part.members = MemberTables(num_samples=len(part.rows), rows=tables, left_out=left_out)
        part.check()
        return part

    def check(self) -> None:
        """Raises a ValueError where what was read does not fit together."""
        beside = self.members.left_out if self.members else {}
        if not isinstance(beside, dict) or beside.keys() != (self.members.rows.keys() if self.members else set()):
            raise ValueError("the members left out are of other members")
        for bad in (*self.quarantined, *chain.from_iterable(beside.values())):
            if not isinstance(bad, dict) or not {"source", "reason"} <= bad.keys():
                raise ValueError("does not say what was left out")
        if len(self.sums) != len(self.squares) or len(self.mask_counts) != _MASK_VALUES:
            raise ValueError("its sums are of different numbers of channels or values")
        if len(self.rows) if self.shard is None else self.shard.num_samples != len(self.rows):
            raise ValueError("its rows are not as many as its samples")

    @staticmethod
    def tables(parts: Sequence["PackedShard"]) -> "Tables":
        """Of all parts of a split."""
        rows, end = np.empty(sum(len(part.rows) for part in parts), INDEX_DTYPE), 0
        for part in parts:  # which give up their own: of a billion samples these are 28 GB
            rows[end : end + len(part.rows)] = part.rows
            part.rows = rows[end : end + len(part.rows)]
            end += len(part.rows)
        masks_of_parts = [part.masks if len(part.masks) else np.zeros(len(part.rows), MASK_DTYPE) for part in parts]
        masks = np.concatenate(masks_of_parts) if any(len(part.masks) for part in parts) else np.empty(0, MASK_DTYPE)
        frames = [part.frames for part in parts if part.frames]
        members = [part.members or MemberTables(num_samples=len(part.rows), rows={}, left_out={}) for part in parts]
        return Tables(rows, masks, FrameTables.joined(frames) if frames else None, MemberTables.joined(members))


def added_up(ours: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Sums of each channel, of all images; an empty one is of none."""
    return [a + b for a, b in zip(ours, theirs, strict=True)] if ours and theirs else list(ours or theirs)


class Tables(NamedTuple):
    """Of all samples of a split."""

    rows: np.ndarray
    """Of the index."""
    masks: np.ndarray
    """None = no sample has one."""
    frames: FrameTables | None
    members: MemberTables


def read_table(path: Path, dtype: np.dtype, count: int | None = None) -> np.ndarray:
    """Rows of a plain file, of that kind and as many; OSError or ValueError where they are not."""
    with open_plain(path) as file:
        return checked(np.load(file, allow_pickle=False), dtype, count)


def checked(rows: np.ndarray, dtype: np.dtype, count: int | None = None) -> np.ndarray:
    """The same rows; ValueError where they are of another kind, or not as many."""
    if rows.dtype != dtype or rows.ndim != 1 or (count is not None and len(rows) != count):
        raise ValueError("its table is of another kind or length")
    return rows


@contextmanager
def _zipped(path: Path) -> Iterator[Any]:
    """Arrays of a plain file; OSError or ValueError where it is damaged, or lacks one."""
    try:
        with open_plain(path) as file, np.load(file, allow_pickle=False) as kept:
            yield kept
    except (KeyError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"no whole archive of arrays: {error}") from error


def sha256(path: Path) -> str:
    """Of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def _fields(tables: FrameTables) -> dict[str, Any]:
    arrays = {"rows": tables.rows, "clips": tables.clips, "motion": tables.motion, "masks": tables.masks}
    return {**arrays, "streams": np.array(tables.streams)}
