"""ShardFolder: one folder of shards, opened once and handed on to everything that reads from it."""

import hashlib
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, MASK_DTYPE, Manifest


class ShardFolder:
    """What is known of one shard folder. Nothing of it is read or checked twice.

    To open it reads ``manifest.json`` alone; index and masks are mapped, and checked, when they are first asked for.
    All of it stays as it then was, should the folder be replaced meanwhile: what differs in the tars fails its
    checksum.

    Args:
        path: the folder with ``manifest.json``.
        named: what the user called it: the folder itself, or that of its splits. None = ``path``.
        hashes: whether this process compares the index (and masks) with the manifest's sha256, a second for 30 million
            samples. One process of a node does it for all of them, which then go on, or fail, together.

    Raises:
        UserError: the manifest is missing, unreadable, not JSON, of another format, or lacks a field.
    """

    path: Path
    named: Path
    manifest: Manifest
    manifest_sha256: str
    """Which data it is."""

    def __init__(self, path: Path | str, *, named: Path | None = None, hashes: bool = True) -> None:
        self.path = Path(path)
        self.named = named or self.path
        self._hashes, self._tars_checked = hashes, False
        self._splits: dict[str, ShardFolder | None] = {}
        file = self.path / "manifest.json"
        try:
            _refuse_odd(file)
            content = file.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{file}: missing; make it with: eyespot shards index {path}") from error
        except OSError as error:
            raise UserError(f"{file}: unreadable ({error}); make it anew: eyespot shards index {path}") from error
        self.manifest = Manifest.from_json(content, file)
        self.manifest_sha256 = hashlib.sha256(content).hexdigest()

    @classmethod
    def find(cls, path: Path | str, *splits: str, hashes: bool = True) -> "ShardFolder":
        """The shard folder that ``path`` names: itself, or the first of its subfolders ``splits`` that is one.

        Args:
            path: what the user said.
            splits: none = "train".
            hashes: as for the class.

        Raises:
            UserError: there is no shard folder, or its manifest is wrong.
        """
        path = Path(path)
        for folder in (path, *(path / split for split in splits or ("train",))):
            if (folder / "manifest.json").is_file():
                return cls(folder, named=path, hashes=hashes)
        if not path.is_dir():
            raise UserError(f"shards {path}: no such folder; make one with: eyespot shards pack SRC {path}")
        raise UserError(f"shards {path}: no manifest.json inside; make one with: eyespot shards index {path}")

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
            there = self.is_split and (folder / "manifest.json").is_file()
            self._splits[name] = ShardFolder(folder, named=self.named, hashes=self._hashes) if there else None
        return self._splits[name]

    @cached_property
    def index(self) -> np.ndarray:
        """Row = sample id: (num_samples,) of INDEX_DTYPE, memory-mapped, so shared by all processes of a machine.

        Raises:
            UserError: it is missing, damaged, or does not agree with the manifest.
        """
        return self._rows("index.npy", INDEX_DTYPE, self.manifest.index_sha256)

    @cached_property
    def masks(self) -> np.ndarray:
        """Row = sample id: (num_samples,) of MASK_DTYPE, memory-mapped.

        Raises:
            UserError: the shards have no masks, or ``masks.npy`` is missing, damaged, or not the manifest's.
        """
        if self.manifest.masks is None:
            raise UserError(
                f"shards {self.path}: have no segmentation masks; pack images with theirs:"
                f" eyespot shards pack IMAGES DST --masks MASKS"
            )
        return self._rows("masks.npy", MASK_DTYPE, self.manifest.masks.sha256)

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
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes where the manifest says {shard.bytes}"
                raise UserError(f"shards {path}: {found}; copy it again, or find all damage: eyespot shards verify")
        self._tars_checked = True

    def check(self) -> None:
        """All that training needs: the index and the size of every tar.

        Raises:
            UserError: one of them is wrong.
        """
        _ = self.index
        self.check_tars()

    def _rows(self, name: str, dtype: np.dtype, sha256: str) -> np.ndarray:
        path, again = self.path / name, f"make it anew: eyespot shards index {self.path}"
        try:
            _refuse_odd(path)
            with path.open("rb") as file:  # one file is looked at, mapped and hashed, whatever takes its name meanwhile
                shape, found, offset = _npy_header(file)
                if found != dtype or shape != (self.manifest.num_samples,):
                    count = self.manifest.num_samples
                    raise UserError(f"{path}: {shape} rows of {found} where the manifest says {count} samples; {again}")
                rows = np.memmap(file, dtype, "r", offset, shape)
                file.seek(0)
                if self._hashes and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise UserError(f"{path}: changed since it was written (sha256 is not the manifest's); {again}")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: unreadable ({error}); {again}") from error
        return np.asarray(rows)  # a plain array: np.memmap makes every access slower


def _refuse_odd(path: Path) -> None:
    """A pipe in a file's place would be waited for without end."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")


def _npy_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type, and where the rows begin."""
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"npy version {version}")
    try:
        # Versions 2 and 3 have a longer length; 3 is in UTF-8, which is ASCII where a type's names are ours.
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (TokenError, SyntaxError, MemoryError, RecursionError) as error:  # what NumPy lets through of a hostile one
        raise ValueError(f"its header is no header ({type(error).__name__})") from error
    return shape, dtype, file.tell()
