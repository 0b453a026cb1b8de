"""Tables of what lies beside the images of a shard folder: captions, for instance.

    KEY.jpg, KEY.txt           an image and its captions (captions.py)
    SHARDS/members/txt.npy     one row per sample, in the order of index.npy: where its text lies in the sample's tar;
                               a size of 0 = the sample has none
    manifest.json, "members"   by extension: how many there are, sha256 of the table, what was left out and why

Shards without such members have none of these. A sample whose member cannot be used stays a sample.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.shards.image_check import StoredMember
from eyespot.data_pipeline.shards.manifest import MASK_DTYPE, MOST_QUARANTINED, Members, member_file

LeftOut = list[dict[str, str]]


@dataclass(kw_only=True, slots=True)
class MemberTables:
    """Of some samples."""

    num_samples: int
    rows: dict[str, np.ndarray]
    """By extension: (num_samples,) of MASK_DTYPE."""
    left_out: dict[str, LeftOut]
    """By extension: {"source": ..., "reason": ...} of what cannot be used."""

    @classmethod
    def joined(cls, parts: Sequence["MemberTables"]) -> "MemberTables":
        """Those of samples that follow each other."""
        extensions = sorted({extension for part in parts for extension in part.rows})
        return cls(
            num_samples=sum(part.num_samples for part in parts),
            rows={
                name: np.concatenate([part.rows.get(name, np.zeros(part.num_samples, MASK_DTYPE)) for part in parts])
                for name in extensions
            },
            left_out={name: [bad for part in parts for bad in part.left_out.get(name, [])] for name in extensions},
        )

    def files(self) -> dict[str, bytes]:
        """The tables' names and bytes."""
        return {member_file(extension): atomic_files.npy_bytes(rows) for extension, rows in self.rows.items()}

    def summary(self) -> dict[str, Members]:
        """Their lines in the manifest."""
        found: dict[str, Members] = {}
        for extension, rows in self.rows.items():
            bad = sorted(self.left_out[extension], key=lambda one: one["source"])
            found[extension] = Members(
                count=int((rows["size"] > 0).sum()),
                sha256=hashlib.sha256(atomic_files.npy_bytes(rows)).hexdigest(),
                num_left_out=len(bad),
                left_out=bad[:MOST_QUARANTINED],
            )
        return found


@dataclass(slots=True)
class MemberRows:
    """Tables that grow, sample by sample."""

    _num_samples: int = 0
    _rows: dict[str, dict[int, tuple[int, int, int]]] = field(default_factory=dict)
    _left_out: dict[str, LeftOut] = field(default_factory=dict)

    def add(self, source: str, members: Mapping[str, StoredMember], places: Mapping[str, tuple[int, int]]) -> None:
        """One more sample.

        Args:
            source: its name.
            members: what lies beside it, by extension.
            places: offset and size of each; not asked for where it cannot be used.
        """
        for extension, member in members.items():
            rows, left_out = self._rows.setdefault(extension, {}), self._left_out.setdefault(extension, [])
            if member.problem:
                left_out.append({"source": source, "reason": member.problem})
            else:
                rows[self._num_samples] = (*places[extension], member.crc32)
        self._num_samples += 1

    def tables(self) -> MemberTables:
        """Of all samples."""
        tables = {extension: np.zeros(self._num_samples, MASK_DTYPE) for extension in sorted(self._rows)}
        for extension, table in tables.items():
            for number, row in self._rows[extension].items():
                table[number] = row
        return MemberTables(num_samples=self._num_samples, rows=tables, left_out=self._left_out)
