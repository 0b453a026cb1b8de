"""The sixteen colours of video colorization, and how such are found."""

import numpy as np
import torch

from eyespot.pretrain.images.color_clusters import CLUSTERS, fit_clusters
from eyespot.pretrain.images.lab_color import to_lab, to_rgb


def test_clusters_are_found_again_the_grayest_first():
    ab = torch.tensor(CLUSTERS[:5], dtype=torch.float64)
    lab = torch.cat([torch.full((5, 1), 60.0), ab], dim=1)[:, :, None, None]
    rgb = to_rgb(lab)[:, :, 0, 0].repeat(200, 1).numpy() + 0.002 * np.random.default_rng(0).standard_normal((1000, 3))
    found = fit_clusters(rgb.clip(0, 1).astype(np.float32), 5)
    expected = to_lab(to_rgb(lab))[:, 1:, 0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.4)


def test_the_clusters_are_sixteen_colours_apart_from_each_other():
    places = np.array(CLUSTERS)
    assert places.shape == (16, 2)
    radius = np.hypot(*places.T)
    assert (np.diff(radius) >= 0).all() and radius[0] < 1
    apart = np.hypot(*(places[:, None] - places).transpose(2, 0, 1)) + 99 * np.eye(16)
    assert apart.min() > 7
