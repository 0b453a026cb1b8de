"""Barlow Twins and VICReg against slow, obvious references in float64, and on real ranks."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.losses.redundancy_reduction import VICRegWeights, barlow_twins_loss, vicreg_loss

COUNT, DIM = 12, 5
WEIGHTS = VICRegWeights(invariance=3.0, variance=2.0, covariance=0.7)


def make_rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, DIM, generator=generator, dtype=torch.float64) * torch.tensor([0.2, 0.5, 1, 2, 3])
    return x, x + 0.3 * torch.randn(COUNT, DIM, generator=generator, dtype=torch.float64) + 0.1


def slow_barlow_twins(x, y, weight):
    def standard(column):
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        return [(value - mean) / (variance + 1e-5) ** 0.5 for value in column]

    ours, theirs = ([standard(column) for column in rows.T] for rows in (x, y))
    total = 0.0
    for i in range(DIM):
        for j in range(DIM):
            correlation = sum(a * b for a, b in zip(ours[i], theirs[j], strict=True)) / COUNT
            total = total + ((1 - correlation) ** 2 if i == j else weight * correlation**2)
    return total


def slow_vicreg(x, y, weights):
    total = weights.invariance * sum(((a - b) ** 2).sum() for a, b in zip(x, y, strict=True)) / (COUNT * DIM)
    for rows in (x, y):
        mean = rows.mean(0)
        matrix = torch.stack([torch.outer(row - mean, row - mean) for row in rows]).sum(0) / (COUNT - 1)
        for i in range(DIM):
            total = total + weights.variance * (1 - (matrix[i, i] + 1e-4).sqrt()).clamp(min=0) / DIM / 2
            total = total + weights.covariance * sum(matrix[i, j] ** 2 for j in range(DIM) if j != i) / DIM
    return total


LOSSES = {
    "barlow twins": (lambda x, y: barlow_twins_loss(x, y, 0.3)["loss"], lambda x, y: slow_barlow_twins(x, y, 0.3)),
    "vicreg": (lambda x, y: vicreg_loss(x, y, WEIGHTS)["loss"], lambda x, y: slow_vicreg(x, y, WEIGHTS)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_equal_the_slow_reference(name):
    fast, slow = LOSSES[name]
    rows = [part.requires_grad_() for part in make_rows()]
    assert fast(*rows).item() == pytest.approx(slow(*rows).item(), rel=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(fast(*rows), rows), torch.autograd.grad(slow(*rows), rows), strict=True
    ):
        assert (ours - theirs).abs().max() <= 1e-10
        assert theirs.abs().max() > 1e-3


def on_own_rows(world: World) -> dict[str, tuple]:
    found = {}
    for name, (fast, _) in LOSSES.items():
        own = [part.chunk(world.size)[world.rank].clone().requires_grad_() for part in make_rows()]
        loss = fast(*own)
        found[name] = loss.item(), [gradient.numpy() for gradient in torch.autograd.grad(loss, own)]
    return found


def test_ranks_are_one_process(on_ranks):
    """The mean over ranks of the losses, and of the gradients, are those of the whole batch."""
    ranks = on_ranks(on_own_rows, 3)
    for name, (fast, _) in LOSSES.items():
        rows = [part.requires_grad_() for part in make_rows()]
        loss = fast(*rows)
        assert sum(rank[name][0] for rank in ranks) / 3 == pytest.approx(loss.item(), rel=1e-12)
        for place, whole in enumerate(torch.autograd.grad(loss, rows)):
            parts = torch.cat([torch.from_numpy(rank[name][1][place]) for rank in ranks])
            assert torch.allclose(parts / 3, whole, rtol=1e-10, atol=1e-12)


def test_one_sample_has_no_statistics():
    x = torch.randn(1, 4)
    for fast, _ in LOSSES.values():
        with pytest.raises(UserError, match="2 samples"):
            fast(x, x)


def test_half_precision_is_widened_inside_autocast():
    x, y = (part.bfloat16() for part in make_rows())
    with torch.autocast("cpu", torch.bfloat16):
        assert barlow_twins_loss(x, y, 0.3)["loss"].dtype == torch.float32
        assert vicreg_loss(x, y, WEIGHTS)["loss"].dtype == torch.float32
