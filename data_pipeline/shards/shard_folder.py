"""ShardFolder: one folder of shards, opened once and handed on to everything that reads from it."""

import hashlib
import stat
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Integer

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
from eyespot.data_pipeline.shards.paged.file_sizes import (
    MissingShards,
    check_piece_sizes,
    check_tar_names,
    check_tar_sizes,
)
from eyespot.data_pipeline.shards.paged.manifest_file import NEWEST, read_manifest
from eyespot.data_pipeline.shards.paged.paged_index import DIGEST_BYTES, PAGES, PagedIndex, RowsById
from eyespot.data_pipeline.shards.paged.row_checks import RowChecks
from eyespot.data_pipeline.shards.paged.shard_table import SHARDS, ShardTable, shard_dtype
from eyespot.data_pipeline.shards.paged.table_files import TableFiles
from eyespot.data_pipeline.shards.paged.versions import version_beside
from eyespot.data_pipeline.shards.sources import how_to_shard
from eyespot.data_pipeline.stores.location import Address, Location, location_of
from eyespot.data_pipeline.stores.open_store import open_store
from eyespot.data_pipeline.stores.presence import first_with, has_file, status
from eyespot.data_pipeline.stores.store import Store


class ShardFolder:
    """What is known of one shard folder. Nothing of it is read or checked twice.

    To open it reads ``manifest.json`` alone; index and masks are read, and checked, when they are first asked for.
    All of it stays as it then was, should the folder be replaced or cut meanwhile: what differs in the tars fails its
    checksum. That takes 28 bytes of memory per sample in each process, and 32 per frame where views have clips.

    It lies in a file system or in an object store (``store``), and is read in the same way.
    Of an index in pieces (``manifest.pieces``) it reads the table of tars at once, and of rows the pages that somebody
    asks for, each checked by who reads it: ``rows`` takes a few MB, whatever the number of samples.

    Args:
        path: the folder with ``manifest.json``, or its address.
        named: what the user called it: the folder itself, or that of its splits. None = ``path``.
        hashes: whether this process compares the index (and masks) with the manifest's sha256, a second for 30 million
            samples. One process of a node does it for all of them, which then go on, or fail, together.
        patience_seconds: for how long a file server that does not answer is waited for.
        version: sha256 of the manifest wanted, where shards were added since; one that was never there = the newest.

    Raises:
        UserError: the manifest is missing, unreadable, not JSON, of another format, or lacks a field.
        Outage: the file system does not give it. So with index, masks and sizes of tars.
    """

    path: Location
    named: Location
    store: Store
    """What its files are read through, by their names: ``tar_key``."""
    manifest: Manifest
    manifest_sha256: str
    """Which data it is."""

    def __init__(
        self,
        path: Location | str,
        *,
        named: Location | None = None,
        hashes: bool = True,
        patience_seconds: float = PATIENCE_SECONDS,
        version: str | None = None,
    ) -> None:
        self.path = location_of(path)
        self.store = open_store(self.path)
        self.named = named or self.path
        self._hashes, self._tars_checked = hashes, False
        self._patience = Patience(patience_seconds)
        self._files = TableFiles(self.path, self.store, self._patience, hashes=hashes)
        self._splits, self._members = dict[str, ShardFolder | None](), dict[str, np.ndarray]()
        file, content = read_manifest(self.path, self.store, self._patience, version)
        self.manifest = Manifest.from_json(content, file)
        self.manifest_sha256, self._is_earlier = hashlib.sha256(content).hexdigest(), file.name != NEWEST
        self._checks = RowChecks(self.path, self.manifest)
        if (told := self.manifest.pieces) is not None:
            rows = self._rows(SHARDS, shard_dtype(told.longest_name), told.shards_sha256, (told.num_shards,), "shard")
            try:
                self.manifest.shards = ShardTable(rows)
            except UserError as error:
                raise UserError(f"{self.path / SHARDS}: {error}; make it anew: eyespot shards index {path}") from error

    @classmethod
    def find(
        cls,
        path: Location | str,
        *splits: str,
        hashes: bool = True,
        patience_seconds: float = PATIENCE_SECONDS,
        version: str | None = None,
    ) -> "ShardFolder":
        """The shard folder that ``path`` names: itself, or the first of its subfolders ``splits`` that is one.

        Args:
            path: what the user said: a path or an address.
            splits: none = "train".
            hashes: as for the class.
            patience_seconds: as for the class.
            version: as for the class.

        Raises:
            UserError: there is no shard folder, or its manifest is wrong.
            Outage: the file system does not say.
        """
        place, patience = location_of(path), Patience(patience_seconds)
        if isinstance(place, Address):
            folders = [place, *(place / split for split in splits or ("train",))]
            found = first_with("manifest.json", folders, patience)
            if found is None:
                places = " or ".join(f"{folder.name}/" for folder in folders[1:])
                what = f"no manifest.json there, nor in {places}; upload what eyespot shards pack or index made"
                raise MissingShards(f"shards {place}: {what}")
            return cls(found, named=place, hashes=hashes, patience_seconds=patience_seconds, version=version)
        for folder in [place, *(place / split for split in splits or ("train",))]:
            if (mode := status(folder / "manifest.json", patience)) and stat.S_ISREG(mode.st_mode):
                return cls(folder, named=place, hashes=hashes, patience_seconds=patience_seconds, version=version)
        if not (mode := status(place, patience)):
            raise MissingShards(f"shards {place}: no such folder; make one with: eyespot shards pack SRC {place}")
        what = "no manifest.json inside; " if stat.S_ISDIR(mode.st_mode) else ""
        raise MissingShards(f"shards {place}: {what}{how_to_shard(place)}")

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store."""
        return self.store.is_remote

    @property
    def sources(self) -> "Sequence[ShardFolder]":
        """The folders that it consists of: of a mixture several."""
        return (self,)

    def chosen(self, ids: np.ndarray | None) -> np.ndarray | None:
        """The samples that are learned from where these may be; None = all. Some mixtures leave samples out."""
        return ids

    @property
    def is_split(self) -> bool:
        """Whether it was found as one split of the data set that the user named."""
        return self.path != self.named

    def is_named(self, text: str | Path | None) -> bool:
        """Whether that is what the user called it."""
        return text is not None and location_of(text) == self.named

    def split(self, name: str) -> "ShardFolder | None":
        """Another split of the same data set, opened once too, as it was when this one's manifest was the newest.

        None where the data set has no splits, or none of that name.

        Raises:
            UserError: its manifest is wrong.
        """
        if name not in self._splits:
            there = self.is_split and has_file(self.named / name, "manifest.json", self._patience)
            self._splits[name] = found = self._opened(self.named / name) if there else None
            if found is not None and self._is_earlier:  # what came into both since then is of neither
                newest = self._opened(self.path)
                version = version_beside(self.manifest, newest.manifest, found.manifest)
                self._splits[name] = self._opened(found.path, version)
        return self._splits[name]

    def _opened(self, path: Location, version: str | None = None) -> "ShardFolder":
        """As this one was."""
        how = {"hashes": self._hashes, "patience_seconds": self._patience.seconds, "version": version}
        return ShardFolder(path, named=self.named, **how)

    @cached_property
    def index(self) -> np.ndarray:
        """Row = sample id: (num_samples,) of INDEX_DTYPE, read-only. Who asks for some rows takes ``rows``.

        Raises:
            UserError: it is missing, damaged, does not agree with the manifest, or says what cannot be; of an index in
                pieces also where it is larger than the memory that is free.
        """
        manifest = self.manifest
        if manifest.pieces is None:
            return self._checks.images("index.npy", self._rows("index.npy", INDEX_DTYPE, manifest.index_sha256))
        return self._pages.whole()

    @cached_property
    def table(self) -> np.ndarray | RowsById:
        """What gives the rows of samples, ``table[ids]``: the whole index, or pages of it where it is in pieces.

        Raises:
            UserError: as ``index``; of an index in pieces where its digests are damaged or a piece has another size.
        """
        return self.index if self.manifest.pieces is None else self._pages

    @cached_property
    def _pages(self) -> PagedIndex:
        told = self.manifest.pieces
        assert told is not None
        wanted = (told.num_pages, DIGEST_BYTES)
        digests = self._rows(PAGES, np.dtype(np.uint8), self.manifest.index_sha256, wanted, "page")
        pages = PagedIndex(self.path, told, digests, self._files.part, self._checks.page)
        if self._hashes:
            check_piece_sizes(self.path, self.store, pages.piece_sizes(), self._patience)
        return pages

    def rows(self, ids: Integer[np.ndarray, "..."]) -> np.ndarray:
        """Those of some samples: one of INDEX_DTYPE for each id.

        Raises:
            UserError: as ``index``, of what is read for them.
            Outage: the file system does not give them.
        """
        return self.table[ids]

    def row_parts(self) -> Iterator[np.ndarray]:
        """The rows of all samples in order, some at a time: for who adds something up; raises as ``rows`` does."""
        return iter([self.index]) if self.manifest.pieces is None else self._pages.parts()

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
        self._checks.places("masks.npy", self.index["tar"], rows)
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
            self._checks.places(member_file(extension), self.index["tar"], rows)
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
        rows = self._rows(FRAMES, INDEX_DTYPE, told.frames_sha256, (told.num_frames,), "frame")
        return self._checks.images(FRAMES, rows, "frame")

    @cached_property
    def clips(self) -> np.ndarray:
        """Row = sample id, column = stream: (num_samples, num_streams) of CLIP_DTYPE, read-only."""
        told, index, frames = self._frames(), self.index, self.frames
        clips = self._rows(CLIPS, CLIP_DTYPE, told.clips_sha256, (self.manifest.num_samples, len(told.streams)))
        if (found := wrong_clips(clips, told.num_frames)) is not None:
            self._checks.refuse(CLIPS, clips, *found)
        wrong = frames[clips["first"][:, 0]] != index
        self._checks.refuse(CLIPS, clips, "first", wrong, "that frame is not the sample's image in index.npy")
        sample = np.repeat(np.arange(len(clips)), clips["count"].sum(1, dtype=np.int64))
        for name in ("tar", "height", "width", "label"):
            differs = frames[name] != index[name][sample]
            self._checks.refuse(FRAMES, frames, name, differs, "the first frame of its sample has another", "frame")
        return clips

    @cached_property
    def motion(self) -> np.ndarray:
        """From each frame to the next of its stream, levels 0..255; 0 at the last: (num_frames,) float32, read-only."""
        told = self._frames()
        rows = self._rows(MOTION, MOTION_DTYPE, told.motion_sha256, (told.num_frames,), "frame")
        self._checks.refuse(MOTION, rows, None, ~((rows >= 0) & (rows <= 255)), "must lie between 0 and 255", "frame")
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
        self._checks.places(FRAME_MASKS, self.frames["tar"], rows, "frame")
        return rows

    def _frames(self) -> Frames:
        """What the manifest says of them."""
        if self.manifest.frames is None:
            raise UserError(
                f"shards {self.path}: have no frames; each sample is one image, and clips need many: pack videos, or"
                f" folders of their frames: eyespot shards pack FRAMES DST --frames folder"
            )
        return self.manifest.frames

    def tar_bytes(self, number: int) -> int | None:
        """Of a tar whose size is to be looked at when it is opened; None = ``check_tars`` has looked at it."""
        shards = self.manifest.shards
        return int(shards.bytes[number]) if isinstance(shards, ShardTable) else None

    def tar_path(self, number: int) -> Location:
        """The tar that the index calls ``number``, for people; to read it: ``read_tar``."""
        return self.path / self.tar_key(number)

    def tar_source(self, number: int) -> "tuple[ShardFolder, int]":
        """The folder in which a tar lies, and what that calls it: of a mixture, its source."""
        return self, number

    def tar_key(self, number: int) -> str:
        """Of the tar that the index calls ``number``, in ``store``."""
        return self.manifest.shards[number].tar

    def read_tar(self, number: int, offset: int, size: int) -> bytes:
        """So many bytes of a tar, unchecked.

        Raises:
            UserError: it has not so many, or may not be read.
            Outage: they cannot be had for so long.
        """
        key = self.tar_key(number)
        try:
            return self._patience.read(self.path / key, lambda: self.store.read(key, offset, offset + size), is_outage)
        except OSError as error:
            fix = "find all damage: eyespot shards verify"
            raise UserError(f"shards {self.path / key}: cannot be read ({words(error)}); {fix}") from error

    def local_tar(self, number: int) -> Path:
        """The file of a tar, for what reads whole tars.

        Raises:
            UserError: it lies in an object store.
        """
        place = self.tar_path(number)
        if not isinstance(place, Path):
            raise UserError(
                f"shards {self.path}: this reads whole tars, which it does on a disk only; download them first"
            )
        return place

    def check_tars(self) -> None:
        """Whether every tar is there and has the manifest's size; looked at once, however often it is asked.

        Of format 2, where they are many, one process of a node lists their names; the size of each is looked at when it
        is first opened.

        Raises:
            UserError: one is missing or has another size.
        """
        if self._tars_checked:
            return
        shards = self.manifest.shards
        if not isinstance(shards, ShardTable):
            check_tar_sizes(self.path, self.store, [(shard.tar, shard.bytes) for shard in shards], self._patience)
        elif self._hashes:
            check_tar_names(self.path, self.store, list(shards.names), self._patience)
        self._files.was_there = self._tars_checked = True

    def check(self) -> None:
        """All that training needs: the index and the size of every tar.

        Raises:
            UserError: one of them is wrong.
        """
        _ = self.table
        self.check_tars()

    def _rows(
        self, name: str, dtype: np.dtype, sha256: str, wanted: tuple[int, ...] | None = None, of: str = "sample"
    ) -> np.ndarray:
        """A table with a row for each sample, behind which those of samples added later may stand; or of that shape."""
        shape = wanted or (self.manifest.num_samples,)
        return self._files.rows(name, dtype, sha256, shape, of, grows=wanted is None)
