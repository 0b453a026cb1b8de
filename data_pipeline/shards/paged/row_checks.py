"""Whether the rows of an index say what can be, however sound its digest is: whoever made the folder made both."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import UInt64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import Manifest, Shard
from eyespot.data_pipeline.shards.paged.shard_table import ShardTable
from eyespot.data_pipeline.stores.location import Location


class RowChecks:
    """Of the tables of one shard folder.

    Args:
        folder: where they lie.
        manifest: what it lists.
    """

    def __init__(self, folder: Location, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest

    def images(self, name: str, rows: np.ndarray, of: str = "sample", first: int = 0) -> np.ndarray:
        """The rows of INDEX_DTYPE.

        Args:
            name: of their file.
            rows: some or all that stand there.
            of: what a row is of.
            first: number of the first of them.

        Raises:
            UserError: one says what cannot be.
        """
        num_shards, num_classes = len(self._manifest.shards), len(self._manifest.classes)
        self.refuse(name, rows, "tar", rows["tar"] >= num_shards, f"the manifest lists {num_shards} shards", of, first)
        self.places(name, rows["tar"], rows, of, first)
        for column in ("size", "height", "width"):
            self.refuse(name, rows, column, rows[column] == 0, "no image is so small", of, first)
        beyond = (rows["label"] < -1) | (rows["label"] >= num_classes)
        self.refuse(name, rows, "label", beyond, f"the manifest lists {num_classes} classes", of, first)
        return rows

    def page(self, name: str, rows: np.ndarray, first: int) -> None:
        """Those of an index in pieces, which nobody sees all of: each must bear out what the manifest says of all.

        Raises:
            UserError: one says what cannot be, or has no label where all have one, or a label where none has one.
        """
        self.images(name, rows, first=first)
        labeled, lacks = self._manifest.num_labeled, rows["label"] < 0
        if labeled == self._manifest.num_samples:
            self.refuse(name, rows, "label", lacks, "the manifest says that all have one", first=first)
        elif not labeled:
            self.refuse(name, rows, "label", ~lacks, "the manifest says that none has one", first=first)

    def places(self, name: str, tars: np.ndarray, rows: np.ndarray, of: str = "sample", first: int = 0) -> None:
        """Whether the bytes that the rows name lie inside the tars."""
        ends = self._tar_bytes[tars]
        outside = (rows["offset"] > ends) | (rows["size"] > ends - np.minimum(rows["offset"], ends))
        beyond = outside & (rows["size"] > 0)
        self.refuse(name, rows, "offset", beyond, "its bytes lie beyond the end of its tar", of, first)

    def refuse(
        self,
        name: str,
        rows: np.ndarray,
        column: str | None,
        wrong: np.ndarray,
        why: str,
        of: str = "sample",
        first: int = 0,
    ) -> None:
        """Says of the first wrong row what is wrong with it."""
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            value = f"{column} {rows[column][row]}" if column else rows[row]
            more = f", as of {wrong.sum() - 1} more" if wrong.sum() > 1 else ""
            raise UserError(
                f"{self._folder / name}: {value} of {of} {first + row}{more}: {why};"
                f" make it anew: eyespot shards index {self._folder}"
            )

    @cached_property
    def _tar_bytes(self) -> UInt64[np.ndarray, " shards"]:
        shards: Sequence[Shard] = self._manifest.shards
        return shards.bytes if isinstance(shards, ShardTable) else np.array([each.bytes for each in shards], np.uint64)
