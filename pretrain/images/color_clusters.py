"""Sixteen colours of the ab plane: Vondrick et al. 2018 (arXiv:1806.09594), section 3.3.

    python -m eyespot.pretrain.images.color_clusters SHARDS

fits such clusters to a shard folder's images by k-means, as CLUSTERS were to the train split of CIFAR-10, and prints
them.
"""

import sys

import numpy as np
import torch
from jaxtyping import Float32, Float64

from eyespot.pretrain.images.color_palette import pixels_of
from eyespot.pretrain.images.lab_color import to_lab

NUM_CLUSTERS = 16
PIXELS_PER_CLUSTER = 12_500

CLUSTERS: tuple[tuple[float, float], ...] = (
    *((-0.2, 0.1), (-1.8, 8.1), (1.9, -8.2), (8.2, 5.0), (-10.7, -4.2), (4.4, 17.5), (-2.5, -19.7), (-11.9, 16.9)),
    *((-3.1, 28.9), (27.0, 11.7), (3.4, -34.4), (14.6, 32.5), (-22.2, 34.1), (-7.1, 54.3), (50.4, 34.0), (23.7, -57.0)),
)
"""a and b of each, CIE Lab; the grayest first."""


def fit_clusters(pixels: Float32[np.ndarray, "n 3"], num_clusters: int) -> Float64[np.ndarray, "num_clusters 2"]:
    """Places of the ab plane that together are near to the colours of the pixels; the grayest first.

    Args:
        pixels: sRGB, 0..1.
        num_clusters: how many.
    """
    from sklearn.cluster import KMeans  # takes a while to import, and no run needs it

    count = min(len(pixels), PIXELS_PER_CLUSTER * num_clusters)
    some = np.random.default_rng(0).choice(pixels, count, replace=False)
    ab = to_lab(torch.from_numpy(some)[:, :, None, None].double())[:, 1:, 0, 0].numpy()
    found = KMeans(num_clusters, random_state=0).fit(ab).cluster_centers_
    return found[np.square(found).sum(1).argsort(kind="stable")]


if __name__ == "__main__":
    for a, b in fit_clusters(pixels_of(sys.argv[1]), NUM_CLUSTERS):
        print(f"({a:.1f}, {b:.1f}),")  # noqa: T201 - it is a command
