"""KoLeo against a slow reference in float64; what it does to neighbours, and to rows that are equal."""

import math

import pytest
import torch

from eyespot.pretrain.losses.koleo import koleo

COUNT, DIM = 7, 3


def make_rows() -> torch.Tensor:
    return torch.randn(COUNT, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_koleo(rows: torch.Tensor) -> torch.Tensor:
    units = [row / row.norm() for row in rows]
    total = torch.zeros((), dtype=rows.dtype)
    for i, own in enumerate(units):
        total = total - torch.stack([(own - other).norm() for j, other in enumerate(units) if j != i]).min().log()
    return total / len(rows)


def test_loss_and_gradient_equal_the_slow_reference():
    rows = make_rows().requires_grad_()
    fast, slow = koleo(rows), slow_koleo(rows)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-6)  # beside the 1e-8 that is added to a distance
    (ours,), (theirs,) = torch.autograd.grad(fast, rows), torch.autograd.grad(slow, rows)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_it_spreads_rows():
    """On a circle the most that rows can have is a regular polygon."""
    angles = torch.linspace(0, 1, COUNT, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([angles], lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        loss = koleo(torch.stack([angles.cos(), angles.sin()], 1))
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(-math.log(2 * math.sin(math.pi / COUNT)), abs=0.05)


def test_equal_rows_have_a_finite_loss_and_gradient():
    rows = make_rows()[:1].float().repeat(4, 1).requires_grad_()
    loss = koleo(rows)
    loss.backward()
    assert loss.isfinite() and rows.grad is not None and rows.grad.isfinite().all()


def test_a_row_alone_has_no_neighbour():
    rows = make_rows()[:1].requires_grad_()
    loss = koleo(rows)
    loss.backward()
    assert loss == 0 and (rows.grad == 0).all()
