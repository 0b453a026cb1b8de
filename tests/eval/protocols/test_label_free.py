"""Numbers without labels, against float64 references and features whose numbers one knows."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from eyespot.eval.protocols import label_free
from eyespot.eval.protocols.task import Task
from eyespot.eval.results.tables import SPREAD_NAMES


def rows(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(variances: torch.Tensor, count: int = 400) -> torch.Tensor:
    """Centred features whose covariance has these eigenvalues exactly."""
    x = rows(count, len(variances))
    basis = torch.linalg.qr(x - x.mean(0)).Q
    turn = torch.linalg.qr(rows(len(variances), len(variances), seed=1)).Q
    return basis * variances.sqrt() @ turn + 3


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_req_of_a_power_law_is_its_exponent(alpha):
    ranks = torch.arange(1, 121, dtype=torch.float64)
    assert label_free.alpha_req(with_spectrum(ranks**-alpha)) == pytest.approx(alpha, abs=1e-9)
    broken = torch.where((ranks < 4) | (ranks > 100), 1.0, 2.0) * ranks**-alpha  # only 4 to 100 count
    broken = torch.where(ranks < 4, 50 * ranks**-alpha, broken)
    assert label_free.alpha_req(with_spectrum(broken)) == pytest.approx(alpha, abs=1e-9)


def test_alpha_req_is_a_weighted_line():
    x = rows(80, 30) * torch.linspace(3, 0.1, 30)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T)))[::-1][3:]
    ranks = np.arange(4, 31)
    slope = np.polyfit(np.log(ranks), np.log(eigenvalues), 1, w=np.sqrt(1 / ranks))[0]
    assert label_free.alpha_req(x) == pytest.approx(-slope, rel=1e-9)
    assert math.isnan(label_free.alpha_req(x[:, :4]))


def test_class_alignment_is_a_mean_over_pairs():
    x, labels = rows(30, 4), torch.arange(30) % 7
    labels[:6] = -1
    labels[10] = 99
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = [(i, j) for i, j in combinations(range(30), 2) if labels[i] == labels[j] >= 0]
    expected = np.mean([(unit[i] - unit[j]).square().sum() for i, j in pairs])
    assert label_free.class_alignment(x, labels) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(label_free.class_alignment(x, torch.full((30,), -1)))
    assert math.isnan(label_free.class_alignment(x, torch.arange(30)))


def test_dead_dimensions_never_change():
    x = rows(50, 8).float()
    assert label_free.dead_share(x) == 0
    x[:, 0], x[:, 1] = 0, 1000.0
    x[::2, 1] += 1e-4  # its last bit
    x[:, 2] *= 1e-9
    assert label_free.dead_share(x) == 3 / 8
    assert label_free.dead_share(torch.zeros(50, 8)) == 1


def test_healthy_features_raise_no_alarm():
    x = rows(300, 64).float()
    found = label_free.label_free_numbers(x, torch.arange(300) % 10)
    assert list(found) and set(found) == set(SPREAD_NAMES) and label_free.alarms(found, 300) == []
    assert 50 < found["rankme"] <= 64 and found["dimensions"] == 64 and found["dead_dimensions"] == 0
    assert found["alignment"] == pytest.approx(2, abs=0.1)  # the classes are not in these features


def test_alarms_in_plain_words():
    def said(x: torch.Tensor) -> str:
        return "\n".join(label_free.alarms(label_free.label_free_numbers(x.float(), torch.full((300,), -1)), 300))

    assert said(1 + 0.01 * rows(300, 64)).startswith("collapsed to a point: different images have a mean cosine of 0.9")
    line = said(rows(300, 1) @ rows(1, 64))
    assert line.startswith("collapsed to a line: around their mean they use 1.0 of 64") and "point" not in line
    dead = rows(300, 64)
    dead[:, :16] = 0.5
    assert said(dead) == "16 of 64 dimensions are dead: they are the same for every image"


def test_candidates_need_no_labels_and_no_train():
    features = {kind: rows(60, dim).float() for kind, dim in [("cls", 8), ("mean", 9)]}
    nothing = {kind: values[:0] for kind, values in features.items()}
    none, unknown = torch.zeros(0, dtype=torch.int64), torch.full((60,), -1)
    task = Task(train=nothing, train_labels=none, test=features, test_labels=unknown, num_classes=0, seed=0)
    (found,) = label_free.candidates(task)
    assert found.predictions is None and found.validation is None and found.alarms == []
    assert found.scores["mean/dimensions"].value == 9 and "cls/alignment" not in found.scores
    order = torch.from_numpy(np.random.default_rng(0).permutation(60))
    task.test = {kind: values[order] for kind, values in features.items()}
    (moved,) = label_free.candidates(task)
    assert {name: score.value for name, score in moved.scores.items()} == pytest.approx(
        {name: score.value for name, score in found.scores.items()}, abs=1e-6
    )


def test_of_many_samples_a_part_is_looked_at(monkeypatch):
    monkeypatch.setattr(label_free, "MAX_SAMPLES", 20)
    features = {"cls": rows(200, 30).float()}
    none, unknown = torch.zeros(0, dtype=torch.int64), torch.full((200,), -1)
    task = Task(
        train={"cls": rows(0, 30).float()}, train_labels=none, test=features, test_labels=unknown, num_classes=0, seed=0
    )
    (found,) = label_free.candidates(task)
    assert found.scores["cls/rankme"].value < 20
