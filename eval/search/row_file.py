"""RowFile: a matrix in an .npy file, row = sample id, read and written in pieces by plain reads and writes.

Never mapped: a file that is cut while mapped kills the process, and mapped pages count as the process's memory.
What is computed on rows is computed on blocks of ``BLOCK`` of them, which ranks divide among themselves as a whole:
matrix products round differently in another shape, so a block's numbers are the same on any number of ranks.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World

BLOCK = 4096
"""Rows that are computed with at once."""
DONE = "done"
"""The column that says which rows of a folder are written."""


class RowFile:
    """A matrix of rows in an .npy file.

    Args:
        path: the file.
        writes: opens it to write rows, too.

    Raises:
        UserError: it is missing or no .npy file of a matrix, or shorter than it says.
    """

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, in_columns, self.dtype = read(file)
                self._begin = file.tell()
            self._descriptor = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as rows ({error}); remove its folder and run again") from error
        if len(shape) != 2 or in_columns or self.dtype.hasobject:
            raise UserError(f"{path}: holds no matrix of numbers; remove its folder and run again")
        self.count, self.width = shape
        self._stride = self.width * self.dtype.itemsize
        if os.fstat(self._descriptor).st_size < self._begin + self.count * self._stride:
            raise UserError(f"{path}: is shorter than it says; remove its folder and run again")

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1."""
        rows = np.empty((stop - start, self.width), self.dtype)
        self._fill(rows, start)
        return rows

    def take(self, ids: Int[np.ndarray, " n"]) -> np.ndarray:
        """Some rows, each run of neighbours by one read."""
        rows = np.empty((len(ids), self.width), self.dtype)
        for first, last in _runs(ids):
            self._fill(rows[first:last], int(ids[first]))
        return rows

    def write(self, ids: Int[np.ndarray, " n"], rows: np.ndarray) -> None:
        """Writes some rows, each run of neighbours at once."""
        rows = np.ascontiguousarray(rows, self.dtype)
        for first, last in _runs(ids):
            view, place = rows[first:last].data.cast("B"), self._begin + int(ids[first]) * self._stride
            while view:
                written = os.pwrite(self._descriptor, view, place)
                view, place = view[written:], place + written

    def sync(self) -> None:
        """Forces what was written to disk."""
        os.fsync(self._descriptor)

    def _fill(self, rows: np.ndarray, start: int) -> None:
        view, place = rows.data.cast("B") if rows.size else memoryview(b""), self._begin + start * self._stride
        while view:
            if not (count := os.preadv(self._descriptor, [view], place)):
                raise UserError(f"{self.path}: was cut while it was read; remove its folder and run again")
            view, place = view[count:], place + count


def _runs(ids: Int[np.ndarray, " n"]) -> Iterator[tuple[int, int]]:
    """Places first..last-1 whose ids follow each other."""
    if not len(ids):
        return
    cuts = np.flatnonzero(np.diff(ids) != 1) + 1
    yield from zip([0, *cuts.tolist()], [*cuts.tolist(), len(ids)], strict=True)


def reserve(folder: Path, columns: Mapping[str, tuple[np.dtype, int]], num_rows: int) -> None:
    """Makes ``NAME.npy`` of so many rows for each name, type and width; those of an interrupted run stay as they are.

    ``done.npy`` says of which rows all columns are written. The disk space is taken now: who writes later is not
    stopped by a full disk halfway.

    Raises:
        OSError: the files cannot be written.
    """
    columns = {**columns, DONE: (np.dtype(np.uint8), 1)}
    if _as_reserved(folder, columns, num_rows):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in sorted(columns, key=lambda name: name == DONE):  # last: it says that the others are whole
        dtype, width = columns[name]
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (num_rows, width)}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            if size := num_rows * width * dtype.itemsize:
                os.posix_fallocate(file.fileno(), file.tell(), size)


def _as_reserved(folder: Path, columns: Mapping[str, tuple[np.dtype, int]], num_rows: int) -> bool:
    try:
        found = {path.stem: RowFile(path) for path in folder.glob("*.npy")}
    except UserError:
        return False
    there = {name: (file.dtype, file.width) for name, file in found.items()}
    return there == dict(columns) and all(file.count == num_rows for file in found.values())


class Rows:
    """Some rows of a file as vectors of length 1: what similarity is computed of.

    Args:
        file: the rows.
        ids: which of them, in this order; None = all.
    """

    def __init__(self, file: RowFile, ids: Int[np.ndarray, " n"] | None = None) -> None:
        self.file, self.ids = file, ids
        self.count = file.count if ids is None else len(ids)
        self.width = file.width

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.count // BLOCK)

    def block(self, number: int, device: torch.device) -> Float[Tensor, "b d"]:
        """One block, float32.

        Raises:
            UserError: a number in it is not finite.
        """
        return self.take(np.arange(number * BLOCK, min((number + 1) * BLOCK, self.count)), device)

    def take(self, places: Int[np.ndarray, " n"], device: torch.device) -> Float[Tensor, "n d"]:
        """Those at some places, float32."""
        ids = places if self.ids is None else self.ids[places]
        rows = torch.from_numpy(self.file.take(ids)).float().to(device)
        if not rows.isfinite().all():
            raise UserError(f"{self.file.path}: its features are not all finite; the encoder's weights are broken")
        return normalize(rows, dim=1)

    def some(self, places: Int[np.ndarray, " n"]) -> "Rows":
        """A part of these rows."""
        return Rows(self.file, places if self.ids is None else self.ids[places])


def dealt(count: int, world: World) -> range:
    """This rank's share of so many blocks: neighbours, rank after rank."""
    return range(count * world.rank // world.size, count * (world.rank + 1) // world.size)
