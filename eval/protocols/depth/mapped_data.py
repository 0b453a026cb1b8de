"""The samples with depth maps of a shard folder, and those maps as an encoder's view shows them."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from eyespot.data_pipeline.augment.views import CenterView, DepthView
from eyespot.data_pipeline.loading.members.depth_views import depth_views
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols.labeled_data import LabeledData, Part
from eyespot.eval.protocols.patch_tokens import divided


@dataclass(kw_only=True, slots=True)
class MappedPart(Part):
    """The samples with depth maps of one shard folder that serve one purpose; their labels play no part."""

    def digest(self) -> str:
        """sha256 of which samples and depth maps these are, in which order."""
        manifest = self.shards.manifest
        parts = manifest.index_sha256, manifest.members[DepthView.extension].sha256
        return hashlib.sha256("\n".join(parts).encode() + self.rows.astype("<i8").tobytes()).hexdigest()

    def maps(self, view: CenterView) -> Float32[np.ndarray, "n s s"]:
        """The depth maps through the view; 0 where nothing was measured.

        Raises:
            UserError: one is damaged.
        """
        return np.concatenate(list(depth_views(self.shards, self.rows, view)))


def mapped_data(shards: ShardFolder, seed: int) -> LabeledData:
    """Train and test of a shard folder, of samples with depth maps; where there is no test split, a fifth is held out.

    Args:
        shards: train, whose test split is looked for; or a folder without splits.
        seed: decides what is held out.

    Raises:
        UserError: no depth maps, or too few of them.
    """
    train, test, split = divided(shards, seed, _part, "depth maps")
    return LabeledData(name=shards.manifest.name, train=train, test=test, classes=[], split=split)


def _part(shards: ShardFolder) -> MappedPart:
    rows = np.flatnonzero(shards.member(DepthView.extension)["size"])
    return MappedPart(shards=shards, rows=rows, labels=np.zeros_like(rows))
