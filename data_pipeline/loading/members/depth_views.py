"""Depth maps as views show them: cut and flipped as the view of the image is, by nearest neighbour."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from eyespot.data_pipeline.augment.crop_geometry import Geometry
from eyespot.data_pipeline.augment.views import CenterView, DepthView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mask_views import files_beside, mask_seen, seen_from_middle
from eyespot.data_pipeline.shards.members.captions import BadMember
from eyespot.data_pipeline.shards.members.depth_maps import depth_values, open_depth
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def see_depths(
    files: Sequence[bytearray],
    place: Geometry,
    scale: float,
    out: Float32[np.ndarray, "n 1 size size"],
    rows: slice,
) -> None:
    """Writes the depth maps of some samples as a view shows them.

    Args:
        files: the maps of all samples.
        place: how the view is cut from each image.
        scale: what the stored values are multiplied by.
        out: where all go; 0 where the view shows no image.
        rows: which samples.

    Raises:
        RuntimeError: one cannot be decoded.
    """
    for row in range(*rows.indices(len(files))):
        try:
            values = depth_values(open_depth(files[row]))
        except BadMember as error:
            raise RuntimeError(str(error)) from error
        out[row, 0] = mask_seen(values, place, row, out.shape[-1], 0)
    out[rows] *= np.float32(scale)


def depth_views(
    shards: ShardFolder, ids: Int64[np.ndarray, " n"], view: CenterView
) -> Iterator[Float32[np.ndarray, "b size size"]]:
    """The depth maps of some samples as the view for evaluation shows them; in order, a few at a time.

    The stored values; 0 where nothing was measured.

    Args:
        shards: where they are.
        ids: which samples.
        view: of the images.

    Raises:
        UserError: the shards have no depth maps, or one of these is damaged or missing.
    """
    for files in files_beside(shards, ids, shards.member(DepthView.extension), "depth map"):
        try:
            yield np.stack([seen_from_middle(depth_values(open_depth(file)), view, 0) for file in files]).astype(
                np.float32
            )
        except BadMember as error:
            raise UserError(f"shards {shards.path}: a depth map: {error}; pack the images with theirs anew") from error
