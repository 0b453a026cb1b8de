"""Losses and schedules of self-distillation against slow, obvious references in float64."""

import math

import pytest
import torch

from eyespot.pretrain.losses.self_distillation import (
    entropies,
    from_other_views,
    gram_distance,
    of_masked_patches,
    on_grid,
    warmed_up,
)

VIEWS, LARGE, COUNT, PLACES, OUT = 4, 2, 3, 5, 6


def distributions(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, OUT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


def cross_entropy(goal, answer):
    return -sum(float(p) * float(q) for p, q in zip(goal, answer, strict=True))


def test_other_views():
    goals, answers = distributions(LARGE, COUNT), distributions(VIEWS, COUNT, seed=1).log()
    pairs = [(t, v) for t in range(LARGE) for v in range(VIEWS) if t != v]
    slow = [cross_entropy(goals[t, b], answers[v, b]) for t, v in pairs for b in range(COUNT)]
    assert from_other_views(goals, answers).item() == pytest.approx(sum(slow) / len(slow), rel=1e-12)


def test_masked_patches_weigh_a_view_alike_however_many_there_are():
    goals, answers = distributions(LARGE, COUNT, PLACES), distributions(LARGE, COUNT, PLACES, seed=1).log()
    masked = torch.rand(LARGE, COUNT, PLACES, generator=torch.Generator().manual_seed(2)) < 0.5
    masked[0, 0], masked[1, 1] = False, True
    total = 0.0
    for v in range(LARGE):
        for b in range(COUNT):
            own = [cross_entropy(goals[v, b, m], answers[v, b, m]) for m in range(PLACES) if masked[v, b, m]]
            total += sum(own) / len(own) if own else 0.0
    found = of_masked_patches(goals, answers, masked)
    assert found.item() == pytest.approx(total / (LARGE * COUNT), rel=1e-12)
    other = torch.where(masked[..., None], answers, answers - 1)
    assert torch.equal(of_masked_patches(goals, other, masked), found), "an answer that is not asked for counts"


def test_entropies_tell_both_kinds_of_collapse_apart():
    same = distributions(1, 1).expand(LARGE, COUNT, -1)
    found = entropies(same)
    assert found["teacher_entropy"].item() == pytest.approx(found["mean_entropy"].item())
    sharp = torch.eye(OUT, dtype=torch.float64).view(2, OUT // 2, OUT)
    found = entropies(sharp)
    assert found["teacher_entropy"] == 0 and found["mean_entropy"].item() == pytest.approx(math.log(OUT))


@pytest.mark.parametrize(("done", "expected"), [(0.0, 0.04), (0.1, 0.055), (0.2, 0.07), (1.0, 0.07)])
def test_a_temperature_warms_up(done, expected):
    assert warmed_up((0.04, 0.07), 0.2, torch.tensor(done)).item() == pytest.approx(expected)


def test_one_that_needs_no_time_is_there_after_the_first_step():
    assert warmed_up((0.04, 0.07), 0.0, torch.tensor(1e-6)).item() == pytest.approx(0.07)


def slow_cosines(rows):
    units = [row / row.norm() for row in rows]
    return [[float(one @ other) for other in units] for one in units]


def test_gram_distance_is_the_mean_over_pairs_of_patches():
    generator = torch.Generator().manual_seed(0)
    tokens, goals = (torch.randn(LARGE, COUNT, PLACES, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    found = gram_distance(tokens, goals)
    for v in range(LARGE):
        for b in range(COUNT):
            ours, theirs = slow_cosines(tokens[v, b]), slow_cosines(goals[v, b])
            squares = [(ours[i][j] - theirs[i][j]) ** 2 for i in range(PLACES) for j in range(PLACES)]
            assert found[v, b].item() == pytest.approx(sum(squares) / PLACES**2, rel=1e-12)
    turned = goals @ torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    assert gram_distance(3 * turned, goals).max() < 1e-25, "lengths and directions of all together are free"


def test_tokens_come_to_a_coarser_grid_at_their_places():
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(8.0), indexing="ij")
    tokens = torch.stack([rows.flatten(), columns.flatten()], 1).double()[None]
    found = on_grid(tokens, (12, 8), (6, 4))[0].unflatten(0, (6, 4))
    assert torch.allclose(found[1:-1, 1:-1, 0], 2 * torch.arange(1, 5.0).double()[:, None] + 0.5), "midway between two"
    assert torch.allclose(found[1:-1, 1:-1, 1], 2 * torch.arange(1, 3.0).double() + 0.5)
    assert on_grid(tokens, (12, 8), (12, 8)) is tokens
