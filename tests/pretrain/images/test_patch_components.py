"""Principal components of patches against numpy's singular values, and which patches they are of."""

import numpy as np
import torch

from eyespot.pretrain.images import patch_components
from eyespot.pretrain.images.patch_components import principal_components, spread_patches
from eyespot.pretrain.images.patchify import patchify


def make_rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, 6, generator=generator)
    return torch.randn(200, 6, generator=generator) @ mixed + 3


def test_components_are_those_of_a_singular_value_decomposition(monkeypatch):
    monkeypatch.setattr(patch_components, "AT_ONCE", 64)
    rows = make_rows()
    mean, directions, variances = principal_components(rows, 4)
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    _, values, expected = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(mean.numpy(), rows.double().numpy().mean(0))
    assert np.allclose(variances.numpy(), (values**2 / len(rows))[:4])
    assert np.allclose(np.abs(directions.numpy().T @ expected[:4].T), np.eye(4), atol=1e-9)
    assert all(column[column.abs().argmax()] > 0 for column in directions.T)


def test_rows_that_are_all_alike_have_no_variance():
    _, directions, variances = principal_components(torch.full((10, 3), 0.1), 3)
    assert torch.allclose(variances, torch.zeros(3, dtype=torch.float64), atol=1e-15)
    assert torch.allclose(directions.T @ directions, torch.eye(3, dtype=torch.float64))


def test_patches_are_spread_over_the_image():
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(spread_patches(images, 4, 16), patchify(images, 4))
    assert torch.equal(spread_patches(images, 4, 99), patchify(images, 4))
    assert torch.equal(spread_patches(images, 4, 4), patchify(images, 4)[:, [2, 6, 10, 14]])
