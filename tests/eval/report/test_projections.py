import numpy as np
import pytest
import torch

from eyespot.eval.report.projections import TAILS, patch_colors, plane


def test_colors_are_principal_components():
    torch.manual_seed(0)
    scales = torch.tensor([9.0, 5.0, 3.0, 1.0, 0.5])
    rotation = torch.linalg.qr(torch.randn(5, 5))[0]
    own = torch.randn(6, 16, 5) * scales
    own -= own.mean(0)
    everywhere = 100 * torch.randn(16, 5)  # of the place, whatever the image
    patches = (own @ rotation + everywhere).permute(0, 2, 1).unflatten(2, (4, 4))
    colors, share = patch_colors(patches)
    rows = (own @ rotation).double().flatten(0, 1).numpy()
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    assert share == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())
    for channel in range(3):
        direction = directions[channel]
        along = rows @ (direction * np.sign(direction[np.abs(direction).argmax()]))
        low, high = np.quantile(along, [TAILS, 1 - TAILS])
        wanted = ((along - low) / (high - low)).clip(0, 1).reshape(6, 4, 4)
        np.testing.assert_allclose(colors[:, channel], wanted, atol=1e-6)


def test_patches_that_are_all_the_same_have_a_colour():
    colors, share = patch_colors(torch.ones(2, 2, 4, 4))
    assert colors.shape == (2, 3, 4, 4) and colors.isfinite().all() and share == 0


def test_the_plane_keeps_groups_apart_and_repeats_itself():
    torch.manual_seed(0)
    labels = np.arange(60) % 2
    features = torch.randn(60, 8) * 0.1 + torch.eye(8)[labels]
    places = plane(features)
    centers = np.stack([places[labels == label].mean(0) for label in (0, 1)])
    nearest = np.linalg.norm(places[:, None] - centers, axis=2).argmin(1)
    assert (nearest == labels).all()
    assert np.array_equal(plane(features), places)
    assert not plane(torch.ones(10, 4)).any()
