"""The scores against slow ones in float64, number by number, and their draws against images that are there twice."""

import math

import numpy as np
import pytest
import torch

from eyespot.eval.checkpoint_choice import scores
from eyespot.eval.checkpoint_choice.scores import FLOOR, WITHIN, Looks, blocks_of, lidar, merit, nearest, scored, shared

N, Q, D = 40, 4, 9


def make_looks(count: int = N, seed: int = 0) -> Looks:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(count, D, generator=generator) @ torch.diag(torch.linspace(2, 0.1, D)) + 1
    return Looks(whole=whole, views=whole[:, None] + 0.3 * torch.randn(count, Q, D, generator=generator))


def entropy_rank(values: np.ndarray) -> float:
    shares = values / values.sum()
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def slow_rankme(rows: np.ndarray) -> float:
    return entropy_rank(np.linalg.svd(rows, compute_uv=False))


def slow_alpha(rows: np.ndarray) -> float:
    """Minimises sum_j (1/j) (log lambda_j - b + a log j)^2 over j = 4..D."""
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    ranks = np.arange(4, len(values) + 1)
    slope, _ = np.polyfit(np.log(ranks), np.log(values[3:]), 1, w=np.sqrt(1 / ranks))
    return -slope


def slow_lidar(views: np.ndarray) -> float:
    count, num_views, dim = views.shape
    means = [sum(view for view in image) / num_views for image in views]
    centre = sum(means) / count
    between, within = np.zeros((dim, dim)), WITHIN * np.eye(dim)
    for image, mean in zip(views, means, strict=True):
        between += np.outer(mean - centre, mean - centre) / (count - 1)
        for view in image:
            within += np.outer(view - mean, view - mean) / (count * (num_views - 1))
    values, vectors = np.linalg.eigh(within)
    half = vectors @ np.diag(values**-0.5) @ vectors.T
    shares = np.linalg.eigvalsh(half @ between @ half)
    shares = shares / shares.sum() + FLOOR
    return math.exp(-sum(share * math.log(share) for share in shares))


def slow_neighbours(rows: np.ndarray, k: int) -> list[set[int]]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return [
        set(sorted((other for other in range(len(rows)) if other != row), key=lambda o: -unit[row] @ unit[o])[:k])
        for row in range(len(rows))
    ]


def slow_agreement(views: np.ndarray, k: int) -> np.ndarray:
    found = [slow_neighbours(views[:, view], k) for view in range(views.shape[1])]
    pairs = list(zip(found[::2], found[1::2], strict=True))
    return np.array([np.mean([len(one[row] & other[row]) / k for one, other in pairs]) for row in range(len(views))])


def slow_scores(looks: Looks) -> dict[str, float]:
    whole, views = looks.whole.double().numpy(), looks.views.double().numpy()
    return {"rankme": slow_rankme(whole), "alpha_req": slow_alpha(whole), "lidar": slow_lidar(views)}


def test_the_scores_are_those_of_slow_ones_in_float64():
    looks = make_looks()
    found = scored(looks, blocks_of(N, 0), seed=0).values
    expected = slow_scores(looks) | {"knn": slow_agreement(looks.views.double().numpy(), 10).mean()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_a_draw_scores_images_as_often_as_they_were_drawn(monkeypatch):
    monkeypatch.setattr(scores, "NUM_BLOCKS", 5)
    monkeypatch.setattr(scores, "NUM_DRAWS", 3)
    looks, blocks = make_looks(), blocks_of(N, 3)
    assert np.bincount(blocks).tolist() == [8] * 5
    found = scored(looks, blocks, seed=7).draws
    agreement = slow_agreement(looks.views.double().numpy(), 10)
    drawn = np.random.default_rng([7, 1]).multinomial(5, [0.2] * 5, size=3)
    assert len({tuple(times) for times in drawn.tolist()}) > 1
    for place, times in enumerate(drawn):
        rows = torch.from_numpy(np.repeat(np.arange(N), times[blocks]))
        expected = slow_scores(Looks(whole=looks.whole[rows], views=looks.views[rows]))
        expected["knn"] = agreement[rows].mean()  # the neighbours stay those among all
        for name, value in expected.items():
            assert found[name][place] == pytest.approx(value, rel=1e-6), name


def test_scores_of_features_that_one_knows_them_of():
    """Images along 5 axes, whose views differ along a sixth only: five directions tell them apart."""
    axes = torch.eye(D)
    whole = axes[torch.arange(N) % 5] - 0.2 * axes[:5].sum(0)
    views = whole[:, None] + 0.5 * axes[5] * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    found = scored(Looks(whole=whole, views=views), blocks_of(N, 0), seed=0)
    assert found.values["lidar"] == pytest.approx(4, rel=1e-3)  # around their mean they have one direction less
    assert found.values["rankme"] == pytest.approx(4, rel=1e-6)
    assert lidar(torch.zeros(3, 3).double(), torch.eye(3).double()) == 0


def test_neighbours_and_what_two_of_them_share():
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [-1.0, 0.0]])
    assert nearest(rows)[:, 0].tolist() == [1, 0, 3, 2, 2]
    same = torch.tensor([[1, 2], [0, 2], [0, 1]])
    assert shared(same, same.flip(1)).tolist() == [1, 1, 1]
    assert shared(same, torch.tensor([[2, 3], [3, 4], [1, 0]])).tolist() == [0.5, 0, 1]


def test_the_tiles_of_neighbours_change_nothing(monkeypatch):
    rows = make_looks().whole
    whole = nearest(rows)
    monkeypatch.setattr(scores, "_TILE", 7)
    assert (shared(nearest(rows), whole) == 1).all()


def test_more_is_better_but_for_the_decay():
    assert merit("rankme", 3.0) == 3.0
    assert merit("alpha_req", 1.2) == pytest.approx(-0.2)
    assert merit("alpha_req", np.array([0.5, 1.0])).tolist() == [-0.5, 0.0]
