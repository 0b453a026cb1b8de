"""Numbers of spread and likeness, against slow and obvious references."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from eyespot.pretrain.losses import feature_statistics


def rows(count: int, dim: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) + shift


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one @ other / (one.norm() * other.norm())).item()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_similarities_are_means_over_pairs(count):
    x, y = rows(count, 5, shift=0.5), rows(count, 5, seed=1, shift=0.5)
    found = feature_statistics.similarities(x, y)
    positive = [cosine(x[i], y[i]) for i in range(count)]
    views = [(i, row) for each in (x, y) for i, row in enumerate(each)]
    negative = [cosine(a, b) for (i, a), (j, b) in combinations(views, 2) if i != j]
    assert found["positive_similarity"].item() == pytest.approx(np.mean(positive), abs=1e-12)
    assert found["negative_similarity"].item() == pytest.approx(np.mean(negative) if negative else 0, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_similarities_of_towers_are_means_over_pairs_of_both(count):
    x, y = rows(count, 5, shift=0.5), rows(count, 5, seed=1, shift=-1.5)
    found = feature_statistics.similarities_of_towers(x, y)
    positive = [cosine(x[i], y[i]) for i in range(count)]
    negative = [cosine(x[i], y[j]) for i in range(count) for j in range(count) if i != j]
    assert found["positive_similarity"].item() == pytest.approx(np.mean(positive), abs=1e-12)
    assert found["negative_similarity"].item() == pytest.approx(np.mean(negative) if negative else 0, abs=1e-12)


def test_similarities_are_single_precision_scalars_without_gradient():
    x = rows(6, 4, shift=3).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        both = [feature_statistics.similarities(x, x), feature_statistics.similarities_of_towers(x, x)]
    for found in both:
        assert all(value.dtype == torch.float32 and value.ndim == 0 for value in found.values())
        assert not any(value.requires_grad for value in found.values())
        assert found["positive_similarity"].item() == pytest.approx(1, abs=1e-6)


def test_alignment_and_uniformity_are_wang_and_isolas():
    x, y = rows(9, 4), rows(9, 4, seed=1)
    unit = [[row / row.norm() for row in each] for each in (x, y)]
    distances = [(a - b).norm() ** 2 for a, b in zip(*unit, strict=True)]
    assert feature_statistics.alignment(x, y) == pytest.approx(float(np.mean(distances)), abs=1e-12)
    kernel = [math.exp(-2 * (a - b).norm() ** 2) for a, b in combinations(unit[0], 2)]
    assert feature_statistics.uniformity(x) == pytest.approx(math.log(np.mean(kernel)), abs=1e-12)
    assert feature_statistics.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-9)


def test_uniformity_of_more_rows_than_a_tile():
    x = rows(1100, 3, shift=0.5)
    x[:3] = 0
    distances = torch.pdist(nn.functional.normalize(x, dim=1))
    assert feature_statistics.uniformity(x) == pytest.approx(
        (-2 * distances.square()).exp().mean().log().item(), abs=1e-12
    )


@pytest.mark.parametrize("shape", [(40, 7), (6, 30)])
def test_effective_rank_is_the_entropy_of_the_singular_values(shape):
    x = rows(*shape, shift=2.0)
    for centered in (False, True):
        matrix = (x - x.mean(0)) if centered else x
        squares = np.linalg.eigvalsh((matrix.T @ matrix).numpy()).clip(0)
        values = np.sort(np.sqrt(squares))[::-1][: min(shape[1], shape[0] - centered)]
        shares = values / values.sum()
        expected = math.exp(-sum(p * math.log(p) for p in shares))
        assert feature_statistics.effective_rank(x, centered=centered) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_of_matrices_that_one_knows_it_of():
    assert feature_statistics.effective_rank(torch.eye(8), centered=False) == pytest.approx(8)
    assert feature_statistics.effective_rank(torch.ones(8, 3), centered=False) == pytest.approx(1)
    assert feature_statistics.effective_rank(torch.ones(8, 3), centered=True) == 0
    assert feature_statistics.effective_rank(torch.zeros(8, 3), centered=False) == 0
    line = torch.arange(8.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    assert feature_statistics.effective_rank(line + 5, centered=True) == pytest.approx(1)
    assert math.isnan(feature_statistics.effective_rank(torch.full((8, 3), math.inf), centered=True))


def test_rounding_noise_is_no_rank():
    """A constant in single precision whose last bits differ has centred rank 0, not full."""
    constant = torch.full((100, 20), 0.3)
    noisy = constant * (1 + 5e-8 * torch.randn(100, 20, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(constant, noisy)
    assert feature_statistics.effective_rank(noisy, centered=True) == 0


@pytest.mark.parametrize("centered", [False, True])
def test_singular_values_come_largest_first_without_those_that_are_rounding(centered):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(9, 4, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    left = left - left.mean(0) if centered else left  # no longer orthogonal, and its columns have mean 0
    values = torch.linalg.svdvals(left @ torch.diag(torch.tensor([1.0, 9.0, 1e-30, 3.0], dtype=torch.float64)))
    features = left @ torch.diag(torch.tensor([1.0, 9.0, 1e-30, 3.0], dtype=torch.float64)) @ right.T
    found = feature_statistics.singular_values(features + 7 * centered, centered=centered)
    assert torch.allclose(found, values[:3], rtol=1e-9)
