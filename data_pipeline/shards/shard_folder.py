"""ShardFolder: one folder of shards, opened once and handed on to everything that reads from it."""

import hashlib
import io
import math
import os
import stat
from functools import cached_property
from pathlib import Path
from tokenize import TokenError

import numpy as np

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience, is_outage, words
from eyespot.data_pipeline.shards.frames import (
    CLIP_DTYPE,
    CLIPS,
    FRAME_MASKS,
    FRAMES,
    MOTION,
    MOTION_DTYPE,
    Frames,
    wrong_clips,
)
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, MASK_DTYPE, Manifest, member_file
from eyespot.data_pipeline.shards.sources import how_to_shard

LARGEST_HEADER = 2**16
"""Bytes before the rows of an .npy file."""


class ShardFolder:
    """What is known of one shard folder. Nothing of it is read or checked twice.

    To open it reads ``manifest.json`` alone; index and masks are read, and checked, when they are first asked for.
    All of it stays as it then was, should the folder be replaced or cut meanwhile: what differs in the tars fails its
    checksum. That takes 28 bytes of memory per sample in each process, and 32 per frame where views have clips.

    Args:
        path: the folder with ``manifest.json``.
        named: what the user called it: the folder itself, or that of its splits. None = ``path``.
        hashes: whether this process compares the index (and masks) with the manifest's sha256, a second for 30 million
            samples. One process of a node does it for all of them, which then go on, or fail, together.
        patience_seconds: for how long a file server that does not answer is waited for.

    Raises:
        UserError: the manifest is missing, unreadable, not JSON, of another format, or lacks a field.
        Outage: the file system does not give it. So with index, masks and sizes of tars.
    """

    path: Path
    named: Path
    manifest: Manifest
    manifest_sha256: str
    """Which data it is."""

    def __init__(
        self,
        path: Path | str,
        *,
        named: Path | None = None,
        hashes: bool = True,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.path = Path(path)
        self.named = named or self.path
        self._hashes, self._tars_checked = hashes, False
        self._patience = Patience(patience_seconds)
        self._splits: dict[str, ShardFolder | None] = {}
        self._members: dict[str, np.ndarray] = {}
        file = self.path / "manifest.json"
        try:
            content = self._patience.read(file, lambda: foreign_json.read_bytes(file), is_outage)
        except FileNotFoundError as error:
            raise MissingShards(f"{file}: missing; make it with: eyespot shards index {path}") from error
        except (OSError, foreign_json.ForeignJsonError) as error:
            why = words(error) if isinstance(error, OSError) else error.why
            raise UserError(f"{file}: unreadable ({why}); make it anew: eyespot shards index {path}") from error
        self.manifest = Manifest.from_json(content, file)
        self.manifest_sha256 = hashlib.sha256(content).hexdigest()

    @classmethod
    def find(
        cls, path: Path | str, *splits: str, hashes: bool = True, patience_seconds: float = PATIENCE_SECONDS
    ) -> "ShardFolder":
        """The shard folder that ``path`` names: itself, or the first of its subfolders ``splits`` that is one.

        Args:
            path: what the user said.
            splits: none = "train".
            hashes: as for the class.
            patience_seconds: as for the class.

        Raises:
            UserError: there is no shard folder, or its manifest is wrong.
            Outage: the file system does not say.
        """
        path, patience = Path(path), Patience(patience_seconds)
        for folder in (path, *(path / split for split in splits or ("train",))):
            if (mode := _status(folder / "manifest.json", patience)) and stat.S_ISREG(mode.st_mode):
                return cls(folder, named=path, hashes=hashes, patience_seconds=patience_seconds)
        if not (mode := _status(path, patience)):
            raise MissingShards(f"shards {path}: no such folder; make one with: eyespot shards pack SRC {path}")
        what = "no manifest.json inside; " if stat.S_ISDIR(mode.st_mode) else ""
        raise MissingShards(f"shards {path}: {what}{how_to_shard(path)}")

    @property
    def is_split(self) -> bool:
        """Whether it was found as one split of the data set that the user named."""
        return self.path != self.named

    def split(self, name: str) -> "ShardFolder | None":
        """Another split of the same data set, opened once too; None where it has no splits, or none of that name.

        Raises:
            UserError: its manifest is wrong.
        """
        if name not in self._splits:
            folder = self.named / name
            there = self.is_split and _status(folder / "manifest.json", self._patience) is not None
            seconds = self._patience.seconds
            self._splits[name] = (
                ShardFolder(folder, named=self.named, hashes=self._hashes, patience_seconds=seconds) if there else None
            )
        return self._splits[name]

    @cached_property
    def index(self) -> np.ndarray:
        """Row = sample id: (num_samples,) of INDEX_DTYPE, read-only.

        Raises:
            UserError: it is missing, damaged, does not agree with the manifest, or says what cannot be.
        """
        manifest = self.manifest
        return self._images("index.npy", self._rows("index.npy", INDEX_DTYPE, manifest.index_sha256))

    @cached_property
    def masks(self) -> np.ndarray:
        """Row = sample id: (num_samples,) of MASK_DTYPE, read-only.

        Raises:
            UserError: the shards have no masks, or ``masks.npy`` is missing, damaged, not the manifest's, or says what
                cannot be.
        """
        if self.manifest.masks is None:
            raise UserError(
                f"shards {self.path}: have no segmentation masks; pack images with theirs:"
                f" eyespot shards pack IMAGES DST --masks MASKS"
            )
        rows = self._rows("masks.npy", MASK_DTYPE, self.manifest.masks.sha256)
        self._check_places("masks.npy", self.index["tar"], rows)
        return rows

    def member(self, extension: str) -> np.ndarray:
        """Of each sample's member of that extension: (num_samples,) of MASK_DTYPE, read-only; size 0 = it has none.

        Raises:
            UserError: no sample has one, or the table is missing, damaged, not the manifest's, or says what cannot be.
        """
        if extension not in self._members:
            if (told := self.manifest.members.get(extension)) is None:
                raise UserError(
                    f"shards {self.path}: have no .{extension} beside their images; pack images with theirs (a.jpg,"
                    f" a.{extension}), or list those of tars anew: eyespot shards index {self.path}"
                )
            rows = self._rows(member_file(extension), MASK_DTYPE, told.sha256)
            self._check_places(member_file(extension), self.index["tar"], rows)
            self._members[extension] = rows
        return self._members[extension]

    @cached_property
    def frames(self) -> np.ndarray:
        """Sample after sample, each stream in the order of time: (num_frames,) of INDEX_DTYPE, read-only.

        Raises:
            UserError: the samples are single images, or ``frames.npy`` is missing, damaged, not the manifest's, or says
                what cannot be. So with ``clips``, ``motion`` and ``frame_masks``.
        """
        told = self._frames()
        return self._images(FRAMES, self._rows(FRAMES, INDEX_DTYPE, told.frames_sha256, (told.num_frames,), "frame"))

    @cached_property
    def clips(self) -> np.ndarray:
        """Row = sample id, column = stream: (num_samples, num_streams) of CLIP_DTYPE, read-only."""
        told, index, frames = self._frames(), self.index, self.frames
        clips = self._rows(CLIPS, CLIP_DTYPE, told.clips_sha256, (self.manifest.num_samples, len(told.streams)))
        if (found := wrong_clips(clips, told.num_frames)) is not None:
            self._refuse(CLIPS, clips, *found)
        wrong = frames[clips["first"][:, 0]] != index
        self._refuse(CLIPS, clips, "first", wrong, "that frame is not the sample's image in index.npy")
        sample = np.repeat(np.arange(len(clips)), clips["count"].sum(1, dtype=np.int64))
        for name in ("tar", "height", "width", "label"):
            differs = frames[name] != index[name][sample]
            self._refuse(FRAMES, frames, name, differs, "the first frame of its sample has another", "frame")
        return clips

    @cached_property
    def motion(self) -> np.ndarray:
        """From each frame to the next of its stream, levels 0..255; 0 at the last: (num_frames,) float32, read-only."""
        told = self._frames()
        rows = self._rows(MOTION, MOTION_DTYPE, told.motion_sha256, (told.num_frames,), "frame")
        self._refuse(MOTION, rows, None, ~((rows >= 0) & (rows <= 255)), "must lie between 0 and 255", "frame")
        return rows

    @cached_property
    def frame_masks(self) -> np.ndarray:
        """Of each frame: (num_frames,) of MASK_DTYPE, read-only."""
        told = self._frames()
        if not told.masks_sha256:
            raise UserError(
                f"shards {self.path}: have no masks of frames; pack frames with theirs:"
                f" eyespot shards pack FRAMES DST --frames folder --masks MASKS"
            )
        rows = self._rows(FRAME_MASKS, MASK_DTYPE, told.masks_sha256, (told.num_frames,), "frame")
        self._check_places(FRAME_MASKS, self.frames["tar"], rows, "frame")
        return rows

    def _frames(self) -> Frames:
        """What the manifest says of them."""
        if self.manifest.frames is None:
            raise UserError(
                f"shards {self.path}: have no frames; each sample is one image, and clips need many: pack videos, or"
                f" folders of their frames: eyespot shards pack FRAMES DST --frames folder"
            )
        return self.manifest.frames

    def tar_path(self, number: int) -> Path:
        """The tar that the index calls ``number``."""
        return self.path / self.manifest.shards[number].tar

    def check_tars(self) -> None:
        """Whether every tar is there and has the manifest's size; looked at once, however often it is asked.

        Raises:
            UserError: one is missing or has another size.
        """
        if self._tars_checked:
            return
        for number, shard in enumerate(self.manifest.shards):
            path = self.tar_path(number)
            found, fix = _status(path, self._patience), "copy it again, or find all damage: eyespot shards verify"
            if found is None or not stat.S_ISREG(found.st_mode):
                raise MissingShards(f"shards {path}: is missing; {fix}")
            if found.st_size != shard.bytes:
                what = f"has {found.st_size} bytes where the manifest says {shard.bytes}"
                raise UserError(f"shards {path}: {what}; {fix}")
        self._tars_checked = True

    def check(self) -> None:
        """All that training needs: the index and the size of every tar.

        Raises:
            UserError: one of them is wrong.
        """
        _ = self.index
        self.check_tars()

    def _rows(
        self, name: str, dtype: np.dtype, sha256: str, wanted: tuple[int, ...] | None = None, of: str = "sample"
    ) -> np.ndarray:
        """Read, never mapped: a file that is cut short while mapped kills the process with SIGBUS."""
        path, again = self.path / name, f"make it anew: eyespot shards index {self.path}"
        wanted = wanted or (self.manifest.num_samples,)
        count = math.prod(wanted)
        largest = LARGEST_HEADER + 2 * count * dtype.itemsize
        try:
            content = self._patience.read(path, lambda: foreign_json.read_bytes(path, largest), is_outage)
            shape, found, offset = _npy_header(content)
            if found != dtype or shape != wanted:
                raise UserError(f"{path}: {shape} rows of {found} where the manifest says {wanted[0]} {of}s; {again}")
            rows = np.frombuffer(content, dtype, count, offset).reshape(wanted)
        except foreign_json.ForeignJsonError as error:
            raise UserError(f"{path}: unreadable ({error.why}); {again}") from error
        except (OSError, ValueError) as error:
            why = words(error) if isinstance(error, OSError) else error
            raise UserError(f"{path}: unreadable ({why}); {again}") from error
        if self._hashes and _sha256(content, path) != sha256:
            raise UserError(f"{path}: changed since it was written (sha256 is not the manifest's); {again}")
        return rows

    def _images(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The rows of INDEX_DTYPE, if they say what can be."""
        num_shards, num_classes = len(self.manifest.shards), len(self.manifest.classes)
        of = "frame" if name == FRAMES else "sample"
        self._refuse(name, rows, "tar", rows["tar"] >= num_shards, f"the manifest lists {num_shards} shards", of)
        self._check_places(name, rows["tar"], rows, of)
        for column in ("size", "height", "width"):
            self._refuse(name, rows, column, rows[column] == 0, "no image is so small", of)
        beyond = (rows["label"] < -1) | (rows["label"] >= num_classes)
        self._refuse(name, rows, "label", beyond, f"the manifest lists {num_classes} classes", of)
        return rows

    def _check_places(self, name: str, tars: np.ndarray, rows: np.ndarray, of: str = "sample") -> None:
        """Whether the bytes that the rows name lie inside the tars."""
        ends = np.array([shard.bytes for shard in self.manifest.shards], np.uint64)[tars]
        outside = (rows["offset"] > ends) | (rows["size"] > ends - np.minimum(rows["offset"], ends))
        beyond = outside & (rows["size"] > 0)
        self._refuse(name, rows, "offset", beyond, "its bytes lie beyond the end of its tar", of)

    def _refuse(
        self, name: str, rows: np.ndarray, column: str | None, wrong: np.ndarray, why: str, of: str = "sample"
    ) -> None:
        """Says of the first wrong row what is wrong with it."""
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            value = f"{column} {rows[column][row]}" if column else rows[row]
            more = f", as of {wrong.sum() - 1} more" if wrong.sum() > 1 else ""
            raise UserError(
                f"{self.path / name}: {value} of {of} {row}{more}: {why};"
                f" make it anew: eyespot shards index {self.path}"
            )


class MissingShards(UserError):
    """Something that should be there is not: wrong, unless it was there before."""


def _status(path: Path, patience: Patience) -> os.stat_result | None:
    """None where there is nothing of that name.

    Raises:
        UserError: it may not be looked at.
    """
    try:
        return patience.read(path, path.stat, is_outage)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"shards {path}: cannot be looked at ({words(error)})") from error


def _sha256(content: bytes, path: Path) -> str:
    """Of what was read from ``path``."""
    return hashlib.sha256(content).hexdigest()


def _npy_header(content: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type, and where the rows begin."""
    file = io.BytesIO(content[:LARGEST_HEADER])
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"npy version {version}")
    try:
        # Versions 2 and 3 have a longer length; 3 is in UTF-8, which is ASCII where a type's names are ours.
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except (TokenError, SyntaxError, MemoryError, RecursionError) as error:  # what NumPy lets through of a hostile one
        raise ValueError(f"its header is no header ({type(error).__name__})") from error
    if by_columns and len(shape) > 1:
        raise ValueError("its rows are stored column by column")
    return shape, dtype, file.tell()
