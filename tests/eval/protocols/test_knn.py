import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from eyespot.eval.protocols import knn
from eyespot.eval.protocols.task import Task


def slow_vote(query, bank, labels, k, num_classes, temperature):
    """One query at a time, as the paper writes it."""
    query = query / np.linalg.norm(query)
    similarity = np.array([query @ (row / np.linalg.norm(row)) for row in bank])
    votes = np.zeros(num_classes)
    for row in np.argsort(-similarity)[:k]:
        votes[labels[row]] += np.exp(similarity[row] / temperature)
    return votes.argmax()


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_the_slow_reference(temperature):
    generator = np.random.default_rng(0)
    bank, queries = generator.normal(size=(300, 16)), generator.normal(size=(70, 16))
    labels = generator.integers(0, 7, 300)
    found = knn.vote(
        *(torch.from_numpy(values) for values in (queries, bank, labels)),
        num_classes=7,
        ks=(1, 10, 200),
        temperature=temperature,
        tile=32,
    )
    for k, predicted in found.items():
        assert predicted.tolist() == [slow_vote(query, bank, labels, k, 7, temperature) for query in queries]


@pytest.mark.parametrize("tile", [3, 100, 1000])
def test_tiles_find_the_exact_neighbours(tile):
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(size, 8, dtype=torch.float64, generator=generator) for size in (20, 101))
    similarity, rows = knn.nearest(queries, bank, 13, tile=tile)
    expected = (queries @ bank.T).sort(dim=1, descending=True)
    assert rows.equal(expected.indices[:, :13])
    torch.testing.assert_close(similarity, expected.values[:, :13])


def test_candidates_on_digits():
    pixels, labels = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(pixels).float(), torch.from_numpy(labels).long()
    task = Task(
        train={"pixels": features[:1000]},
        train_labels=labels[:1000],
        test={"pixels": features[1000:]},
        test_labels=labels[1000:],
        num_classes=10,
        seed=0,
    )
    found = {candidate.metric: candidate for candidate in knn.candidates(task)}
    assert list(found) == [f"knn/k{k}_T0.07_pixels_l2" for k in (10, 20, 100, 200)]
    accuracy = {name: (c.predictions == labels[1000:].numpy()).mean() for name, c in found.items()}
    assert accuracy["knn/k10_T0.07_pixels_l2"] > 0.93
    assert found["knn/k10_T0.07_pixels_l2"].settings == {"features": "pixels", "k": 10}
    assert found["knn/k10_T0.07_pixels_l2"].validation > 0.93


def test_k_never_exceeds_the_bank():
    labels = torch.arange(60) % 2
    features = {"cls": labels[:, None] * 2.0 - 1 + 0.01 * torch.arange(60)[:, None] % 0.1}
    task = Task(train=features, train_labels=labels, test=features, test_labels=labels, num_classes=2, seed=0)
    assert [candidate.settings["k"] for candidate in knn.candidates(task)] == [10, 20]
