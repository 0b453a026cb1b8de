"""Depth maps as views show them: cut and flipped as the view of the image is, by nearest neighbour."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from eyespot.data_pipeline.augment.crop_geometry import Geometry
from eyespot.data_pipeline.loading.mask_views import mask_seen
from eyespot.data_pipeline.shards.members.captions import BadMember
from eyespot.data_pipeline.shards.members.depth_maps import depth_values, open_depth


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
