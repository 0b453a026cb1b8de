"""Clustering: that the order of the images plays no part, and accuracy by trying every assignment."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from eyespot.eval.protocols import clustering
from eyespot.eval.protocols.task import Task


def noise(count: int = 200) -> torch.Tensor:
    """Without clusters: another start of k-means ends elsewhere."""
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(0))


def test_images_in_another_order_fall_into_the_same_clusters():
    features, order = noise(), np.random.default_rng(1).permutation(200)
    wiggled = features[torch.from_numpy(order)] * (1 + 1e-7)
    found, moved = clustering.clusters(features, 8, seed=0), clustering.clusters(wiggled, 8, seed=0)
    assert found[order].tolist() == moved.tolist()
    assert clustering.clusters(features, 8, seed=1).tolist() != found.tolist()


def test_it_is_k_means_on_the_sphere():
    features = noise()
    unit = (features / features.norm(dim=1, keepdim=True)).double().numpy()
    found = clustering.clusters(features * torch.arange(1, 201)[:, None], 8, seed=0)
    assert len(np.unique(found)) == 8

    def distance(assigned: np.ndarray) -> float:
        return sum(((unit[assigned == c] - unit[assigned == c].mean(0)) ** 2).sum() for c in range(8))

    single = [KMeans(8, n_init=1, random_state=seed).fit(unit).inertia_ for seed in range(10)]
    assert distance(found) <= np.median(single)
    centres = np.stack([unit[found == c].mean(0) for c in range(8)])
    assert (((unit[:, None] - centres) ** 2).sum(2).argmin(1) == found).all()


@pytest.mark.parametrize("num_clusters", [3, 4, 5])
def test_accuracy_is_that_of_the_best_assignment(num_clusters):
    generator = np.random.default_rng(0)
    labels = np.array([2, 3, 5, 7])[generator.integers(0, 4, 60)]
    assigned = generator.integers(0, num_clusters, 60)
    accuracy = (clustering.matched(assigned, labels) == labels).mean()
    names = [2, 3, 5, 7] + [-1] * max(0, num_clusters - 4)
    best = max((np.array(chosen)[assigned] == labels).mean() for chosen in permutations(names, num_clusters))
    assert accuracy == pytest.approx(best)


def test_collapsed_features_are_one_cluster():
    labels = np.arange(40) % 4
    assert (clustering.matched(clustering.clusters(torch.ones(40, 3), 4, seed=0), labels) == labels).mean() == 0.25


def test_candidates_on_digits():
    pixels, labels = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(pixels).float(), torch.from_numpy(labels).long()
    task = Task(
        train={"pixels": features[:1200]},
        train_labels=labels[:1200],
        test={"pixels": features[1200:]},
        test_labels=labels[1200:],
        num_classes=10,
        seed=0,
    )
    (found,) = clustering.candidates(task)
    assert found.metric == "clustering/kmeans_pixels_l2" and found.predictions is not None
    truth, assigned = labels[1200:].numpy(), clustering.clusters(features[1200:], 10, seed=0)
    assert found.scores["NMI"].value == pytest.approx(normalized_mutual_info_score(truth, assigned))
    assert found.scores["ARI"].value == pytest.approx(adjusted_rand_score(truth, assigned))
    assert found.scores["NMI"].value > 0.6 < (found.predictions == truth).mean()
    shuffled = np.random.default_rng(0).permutation(truth)
    assert adjusted_rand_score(shuffled, assigned) == pytest.approx(0, abs=0.02)
    assert (clustering.matched(assigned, shuffled) == shuffled).mean() < 0.25
