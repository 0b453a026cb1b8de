"""Metric losses against slow, obvious references in float64, anchor by anchor and pair by pair, and on real ranks."""

import math

import pytest
import torch

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.losses.metric_learning import (
    Pairs,
    batch_hard_loss,
    contrastive_loss,
    lifted_loss,
    n_pair_loss,
    nce_loss,
    soft_neighbours_loss,
    triplet_loss,
)

IDS = torch.tensor([0, 1, 2, 3, 4, 5] * 2)
LABELS = torch.tensor([7, 7, 8, 9, -1, -1] * 2)
MARGIN, TEMPERATURE = 0.7, 0.4


def make_rows(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(IDS), 4, generator=generator, dtype=torch.float64) * 0.5


def kin(i: int, ids, labels) -> tuple[list[int], list[int]]:
    """The positives and the negatives of a row."""
    same = [j for j in range(len(ids)) if ids[i] == ids[j] or (labels[i] == labels[j] and labels[i] >= 0)]
    return [j for j in same if j != i], [j for j in range(len(ids)) if j not in same]


def distance(x, y):
    return ((x - y) ** 2).sum().sqrt()


def total(terms):
    return sum(terms, torch.zeros((), dtype=torch.float64))


def mean(terms):
    return total(terms) / max(1, len(terms))


def slow_contrastive(z, i, positives, negatives):
    pulled = mean([distance(z[i], z[j]) ** 2 / 2 for j in positives])
    return pulled + mean([max(distance(z[i], z[j]) * 0, MARGIN - distance(z[i], z[j])) ** 2 / 2 for j in negatives])


def slow_semi_hard(z, i, positives, negatives):
    terms = []
    for p in positives:
        far = distance(z[i], z[p]) ** 2
        squares = [distance(z[i], z[n]) ** 2 for n in negatives]
        farther = [square for square in squares if square > far]
        if squares:
            terms.append((far - (min(farther) if farther else max(squares)) + MARGIN).clamp(min=0))
    return total(terms) / len(positives)


def slow_hardest(z, i, positives, negatives):
    nearest = [distance(z[i], z[n]) ** 2 for n in negatives]
    return mean([(distance(z[i], z[p]) ** 2 - min(nearest) + MARGIN).clamp(min=0) for p in positives if nearest])


def slow_batch_hard(z, i, positives, negatives):
    if not negatives:
        return total([])
    gap = max(distance(z[i], z[p]) for p in positives) - min(distance(z[i], z[n]) for n in negatives)
    return torch.log(1 + torch.exp(gap))


def slow_n_pair(z, i, positives, negatives):
    terms = [torch.log(1 + total([torch.exp(z[i] @ z[n] - z[i] @ z[p]) for n in negatives])) for p in positives]
    return mean(terms) + 0.1 * (z[i] ** 2).sum()


def slow_lifted(z, i, positives, negatives, ids=IDS, labels=LABELS):
    terms = []
    for p in positives:
        ends = [(i, n) for n in negatives] + [(p, n) for n in kin(p, ids, labels)[1]]
        crowd = total([torch.exp(MARGIN - distance(z[a], z[n])) for a, n in ends])
        terms.append((torch.log(crowd) + distance(z[i], z[p])).clamp(min=0) ** 2 / 2)
    return mean(terms)


def slow_nce(z, i, positives, negatives):
    """Noise: a negative at random, with probability 1 / k; so k * noise = 1, and Z is k times the mean exponential."""
    noise, k = 1 / max(1, len(negatives)), len(negatives)
    partition = k * mean([torch.exp(z[i] @ z[n] / TEMPERATURE).detach() for n in negatives])

    def is_data(j):
        model = torch.exp(z[i] @ z[j] / TEMPERATURE) / partition
        return model / (model + k * noise)

    return -mean([torch.log(is_data(p)) for p in positives]) - total([torch.log(1 - is_data(n)) for n in negatives])


def slow_soft_neighbours(z, i, positives, negatives):
    def near(others):
        return total([torch.exp(-(distance(z[i], z[j]) ** 2) / TEMPERATURE) for j in others])

    return -torch.log(near(positives) / near([*positives, *negatives]))


LOSSES = {
    "contrastive": (lambda pairs: contrastive_loss(pairs, MARGIN), slow_contrastive),
    "semi-hard": (lambda pairs: triplet_loss(pairs, MARGIN, "semi-hard"), slow_semi_hard),
    "hardest": (lambda pairs: triplet_loss(pairs, MARGIN, "hardest"), slow_hardest),
    "batch hard": (batch_hard_loss, slow_batch_hard),
    "n-pair": (lambda pairs: n_pair_loss(pairs, 0.1), slow_n_pair),
    "lifted": (lambda pairs: lifted_loss(pairs, MARGIN), slow_lifted),
    "nce": (lambda pairs: nce_loss(pairs, TEMPERATURE), slow_nce),
    "soft neighbours": (lambda pairs: soft_neighbours_loss(pairs, TEMPERATURE), slow_soft_neighbours),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_the_slow_reference(name, seed):
    fast, slow = LOSSES[name]
    z = make_rows(seed).requires_grad_()
    losses = fast(Pairs.of(z, IDS, LABELS))
    expected = torch.stack([slow(z, i, *kin(i, IDS, LABELS)) for i in range(len(z))])
    assert torch.allclose(losses, expected, rtol=1e-10, atol=1e-12)
    weights = torch.linspace(0.5, 2, len(z), dtype=torch.float64)  # so that no error of one row hides in another's
    ours, theirs = (torch.autograd.grad(weights @ found, z)[0] for found in (losses, expected))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
    assert theirs.abs().max() > 1e-3


def test_positives_are_samples_and_labels_but_never_the_row_itself():
    pairs = Pairs.of(make_rows(), IDS, LABELS)
    for i in range(len(IDS)):
        positives, negatives = kin(i, IDS, LABELS)
        assert pairs.positives[i].nonzero().flatten().tolist() == positives
        assert pairs.negatives[i].nonzero().flatten().tolist() == negatives
    assert pairs.positives[4].sum() == 1  # no label: only its other view
    assert pairs.positives[0].sum() == 3


@pytest.mark.parametrize("name", LOSSES)
def test_without_negatives_loss_and_gradient_stay_finite(name):
    z = make_rows().requires_grad_()
    losses = LOSSES[name][0](Pairs.of(z, torch.zeros_like(IDS), LABELS))
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    assert losses.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_have_collapsed_to_one_point_have_a_finite_gradient(name):
    z = torch.full((len(IDS), 4), 0.5, requires_grad=True)
    losses = LOSSES[name][0](Pairs.of(z, IDS, LABELS))
    assert losses.isfinite().all() and torch.autograd.grad(losses.sum(), z)[0].isfinite().all()


def test_noise_contrast_at_chance():
    """Of one positive and k negatives, all alike, the classifier says 1 / (k + 1) for each: model and noise agree."""
    losses = nce_loss(
        Pairs.of(torch.ones(8, 3, dtype=torch.float64), torch.arange(4).repeat(2), -torch.ones(8).long()), 1.0
    )
    k = 6
    assert losses.tolist() == pytest.approx([math.log(k + 1) + k * math.log((k + 1) / k)] * 8)


def on_own_rows(world: World) -> dict[str, tuple]:
    found = {}
    order = torch.arange(len(IDS)).view(2, -1)  # both views of a rank's samples
    own = order.chunk(world.size, dim=1)[world.rank].flatten()
    for name, (fast, _) in LOSSES.items():
        rows = make_rows()[own].requires_grad_()
        loss = fast(Pairs.of(rows, IDS[own], LABELS[own])).mean()
        found[name] = loss.item(), own.numpy(), torch.autograd.grad(loss, rows)[0].numpy()
    return found


def test_ranks_are_one_process(on_ranks):
    """The mean over ranks of the losses, and of the gradients, are those of the whole batch."""
    ranks = on_ranks(on_own_rows, 3)
    for name, (fast, _) in LOSSES.items():
        rows = make_rows().requires_grad_()
        loss = fast(Pairs.of(rows, IDS, LABELS)).mean()
        assert sum(rank[name][0] for rank in ranks) / 3 == pytest.approx(loss.item(), rel=1e-12), name
        (whole,) = torch.autograd.grad(loss, rows)
        for _, own, gradient in (rank[name] for rank in ranks):
            assert torch.allclose(torch.from_numpy(gradient) / 3, whole[own], rtol=1e-10, atol=1e-12), name


def test_half_precision_is_widened():
    rows = make_rows().bfloat16()
    assert all(fast(Pairs.of(rows, IDS, LABELS)).dtype == torch.float32 for fast, _ in LOSSES.values())
