"""Clusters: against slow references, on planted clusters, and on features that leave k-means helpless."""

from itertools import permutations

import numpy as np
import pytest
import torch

from eyespot.pretrain.losses.kmeans import agreement, clustered, renumbered, whitened, without_empty


def test_whitened_is_pca_divided_by_the_deviations():
    features = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 7.0)) + 3
    found = whitened(features, 4).double().numpy()
    rows = features.double().numpy()
    left, _, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = left[:, :4] / np.linalg.norm(left[:, :4], axis=1, keepdims=True)
    assert np.allclose(found @ found.T, expected @ expected.T, atol=1e-5)  # the same but for a rotation


def test_rounding_does_not_become_a_component():
    line = torch.linspace(0, 1, 50)[:, None] * torch.ones(1, 5) + 100
    assert whitened(line, 5).shape == (50, 1)
    assert torch.equal(whitened(torch.full((50, 5), 0.3), 5), torch.zeros(50, 1))


def planted(num_clusters: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Well separated clusters and which row belongs to which."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.nn.functional.normalize(torch.randn(num_clusters, 16, generator=generator), dim=1)
    answers = torch.arange(num_clusters).repeat(size)
    return centres[answers] + 0.02 * torch.randn(len(answers), 16, generator=generator), answers.numpy()


def test_planted_clusters_are_found_again_and_again():
    rows, answers = planted(8, 40)
    found = clustered(rows, 8)
    assert agreement(found, answers) > 0.9
    assert np.array_equal(found, clustered(rows, 8))


@pytest.mark.parametrize("rows", [torch.zeros(40, 1), torch.tensor([[0.0], [1.0]]).repeat(20, 1)])
def test_no_cluster_is_empty_even_where_all_features_are_alike(rows):
    sizes = np.bincount(clustered(rows, 16), minlength=16)
    assert sizes.min() >= 1 and sizes.sum() == 40


def test_an_empty_cluster_gets_half_of_the_largest():
    points = np.array([[0, 0], [0, 9], [0, 1], [0, 8], [5, 0], [6, 0]], np.float32)
    found = without_empty(points, np.array([0, 0, 0, 0, 2, 2]), 3)
    assert found.tolist() == [0, 1, 0, 1, 2, 2]  # along the wider coordinate


def test_as_many_samples_as_can_be_keep_their_number():
    generator = np.random.default_rng(0)
    old, new = generator.integers(0, 5, 60), generator.integers(0, 5, 60)
    found = renumbered(new, old, 5)
    best = max(sum(np.array(names)[new] == old) for names in permutations(range(5)))
    assert sum(found == old) == best
    assert len(set(zip(found.tolist(), new.tolist(), strict=True))) == 5  # a new name for each, and no other change


def test_agreement_does_not_ask_for_names():
    one = np.array([0, 0, 1, 1, 2, 2])
    assert agreement(one, (one + 1) % 3) == pytest.approx(1)
    assert agreement(one, np.zeros(6, np.int64)) == 0
