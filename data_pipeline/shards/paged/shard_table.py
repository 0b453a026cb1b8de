"""shards.npy: one row for each tar, in place of the manifest's list, which takes a second and 200 MB of 400,000."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import overload

import numpy as np
from jaxtyping import UInt64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import LONGEST_NAME, Shard

SHARDS = "shards.npy"
_MOST = 2**63 - 1


def shard_dtype(longest_name: int) -> np.dtype:
    """Of the table's rows.

    Args:
        longest_name: bytes of a tar's name, 1 to 255.
    """
    return np.dtype([("tar", f"S{longest_name}"), ("num_samples", "<u8"), ("bytes", "<u8"), ("sha256", "u1", (32,))])


class ShardTable(Sequence[Shard]):
    """The tars of a folder in the manifest's order, held as rows and not as objects.

    Args:
        rows: (num_shards,) of ``shard_dtype``.

    Raises:
        UserError: a name is none of a file in this folder, or stands there twice; a number is too large.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        names = rows["tar"].tolist()
        for number, name in enumerate(names):
            if not name or b"/" in name or b"\0" in name or name in (b".", b"..") or not _is_text(name):
                raise UserError(f"tar {name[:40]!r} of shard {number}: must be the name of a file in this folder")
        if len(set(names)) < len(names):
            twice, count = Counter(names).most_common(1)[0]
            raise UserError(f"tar {twice[:40].decode(errors='replace')!r} stands there {count} times")
        for column in ("num_samples", "bytes"):
            if (rows[column] > _MOST).any():
                raise UserError(f"{column} {rows[column].max()}: must be below 2^63")

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "ShardTable":
        """The same tars as rows.

        Raises:
            UserError: a digest is none.
        """
        if isinstance(shards, cls):
            return shards
        names = [shard.tar.encode() for shard in shards]
        rows = np.zeros(len(shards), shard_dtype(max(map(len, names), default=1)))
        rows["tar"] = names
        rows["num_samples"] = [shard.num_samples for shard in shards]
        rows["bytes"] = [shard.bytes for shard in shards]
        for row, shard in zip(rows, shards, strict=True):
            if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
                raise UserError(f"{shard.tar}: sha256 {shard.sha256[:70]!r} is none")
            row["sha256"] = np.frombuffer(bytes.fromhex(shard.sha256), np.uint8)
        return cls(rows)

    @property
    def rows(self) -> np.ndarray:
        """(num_shards,) of ``shard_dtype``."""
        return self._rows

    @property
    def bytes(self) -> UInt64[np.ndarray, " shards"]:
        """Of each tar."""
        return self._rows["bytes"]

    @property
    def names(self) -> list[str]:
        """Of each tar."""
        return [name.decode() for name in self._rows["tar"].tolist()]

    @property
    def longest_name(self) -> int:
        """Bytes that a name may have in the rows."""
        assert 1 <= self._rows.dtype["tar"].itemsize <= LONGEST_NAME
        return self._rows.dtype["tar"].itemsize

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> Shard: ...
    @overload
    def __getitem__(self, number: slice) -> list[Shard]: ...
    def __getitem__(self, number: int | slice) -> Shard | list[Shard]:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        row = self._rows[number]
        return Shard(
            tar=row["tar"].decode(),
            num_samples=int(row["num_samples"]),
            bytes=int(row["bytes"]),
            sha256=row["sha256"].tobytes().hex(),
        )


def total_bytes(shards: Sequence[Shard]) -> int:
    """Of all tars together."""
    return int(shards.bytes.sum()) if isinstance(shards, ShardTable) else sum(shard.bytes for shard in shards)


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
