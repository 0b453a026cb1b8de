"""Retrieval against loops in float64, and against scikit-learn's average precision."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from eyespot.eval.protocols import retrieval
from eyespot.eval.protocols.task import Task


def noisy_classes(count: int = 90, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (count,), generator=generator)
    return torch.randn(5, dim, generator=generator)[labels] + torch.randn(count, dim, generator=generator), labels


def slow(features: np.ndarray, labels: np.ndarray) -> tuple[list[list[bool]], list[float]]:
    """One image at a time: is each of its 10 nearest of its class, and the average precision."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest, average = [], []
    for place, row in enumerate(unit):
        others = np.array([other for other in range(len(unit)) if other != place])
        similarity = unit[others] @ row
        same = labels[others] == labels[place]
        nearest.append([bool(same[other]) for other in np.argsort(-similarity)[:10]])
        average.append(float(average_precision_score(same, similarity)))
    return nearest, average


@pytest.mark.parametrize("tile", [7, 256])
def test_equals_the_slow_reference(tile):
    features, labels = noisy_classes()
    relevant, nearest, average = retrieval.leave_one_out(features, labels, tile=tile)
    expected_relevant, expected_average = slow(features.double().numpy(), labels.numpy())
    assert relevant.tolist() == expected_relevant
    assert average.numpy() == pytest.approx(np.array(expected_average), abs=1e-12)
    assert (nearest == labels).tolist() == [row[0] for row in expected_relevant]


def test_images_in_another_order_find_the_same():
    features, labels = noisy_classes()
    order = torch.from_numpy(np.random.default_rng(1).permutation(90))
    for found, moved in zip(
        retrieval.leave_one_out(features, labels),
        retrieval.leave_one_out(features[order], labels[order], tile=32),
        strict=True,
    ):
        assert found[order].equal(moved)


@pytest.mark.parametrize("labels", [[0] * 20 + [1] * 20, [0, 1] * 20])
def test_collapsed_features_find_nothing(labels):
    """However the rows are sorted, and whatever their last bit is."""
    constant = torch.full((40, 8), 0.3) * (1 + 1e-8 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))
    relevant, nearest, average = retrieval.leave_one_out(constant, torch.tensor(labels))
    assert not relevant.any() and not (nearest == torch.tensor(labels)).any()
    worst = np.mean([hit / (20 + hit) for hit in range(1, 20)])  # after the 20 of the other class
    assert average.numpy() == pytest.approx(np.full(40, worst))


def test_a_class_of_one_image_is_never_found():
    features, labels = noisy_classes()
    labels[3] = 9
    relevant, nearest, average = retrieval.leave_one_out(features, labels)
    assert not relevant[3].any() and nearest[3] != 9 and average[3] == 0


def test_candidates_on_digits():
    pixels, labels = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(pixels).float(), torch.from_numpy(labels).long()
    noise = torch.rand(1797, 9, generator=torch.Generator().manual_seed(0))
    task = Task(
        train={"good": features[:1000], "noise": noise[:1000]},
        train_labels=labels[:1000],
        test={"good": features[1000:], "noise": noise[1000:]},
        test_labels=labels[1000:],
        num_classes=10,
        seed=0,
    )
    good, bad = retrieval.candidates(task)
    assert good.metric == "retrieval/good_l2" and list(good.scores) == ["recall@5", "recall@10", "mAP"]
    assert good.predictions is not None and good.validation is not None and bad.validation is not None
    recalls = [
        (good.predictions == labels[1000:].numpy()).mean(),
        good.scores["recall@5"].value,
        good.scores["recall@10"].value,
    ]
    assert 0.95 < recalls[0] < recalls[1] <= recalls[2] < 1
    assert good.validation > 0.8 > 0.3 > bad.validation
    for name in ("recall@5", "recall@10"):
        score = good.scores[name]
        right = np.unpackbits(np.frombuffer(bytes.fromhex(score.correct or ""), np.uint8))[:797]
        assert right.mean() == score.value and score.interval is not None
        assert score.interval[0] < score.value < score.interval[1]
    relevant, _, average = retrieval.leave_one_out(features[1000:], labels[1000:])
    assert good.scores["mAP"].value == pytest.approx(average.mean().item()) and good.scores["mAP"].interval is None
    assert relevant[:, :5].any(1).double().mean().item() == recalls[1]


def test_shuffled_labels_are_chance():
    pixels, labels = load_digits(return_X_y=True)
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(labels)).long()
    relevant, _, average = retrieval.leave_one_out(torch.from_numpy(pixels).float(), shuffled)
    assert relevant[:, 0].double().mean() == pytest.approx(0.1, abs=0.03)
    assert average.mean() == pytest.approx(0.1, abs=0.01)
