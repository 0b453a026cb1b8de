import numpy as np
import pytest
import torch

from eyespot.pretrain.distributed.collectives import every_row, mean_where, num_rows, rank_sum
from eyespot.pretrain.distributed.process_group import World


def sums(world: World) -> tuple:
    own = torch.full((2, 3), float(world.rank + 1), requires_grad=True)
    total = rank_sum(own)
    (gradient,) = torch.autograd.grad((world.rank + 1) * total.square().sum(), own)
    return total.detach().numpy(), gradient.numpy(), num_rows(own)


def test_sums_and_their_gradients(on_ranks):
    """1 + 2 + 3 everywhere; the gradient is that of (1 + 2 + 3) * total^2."""
    for total, gradient, count in on_ranks(sums, 3):
        assert (total == 6).all()
        assert (gradient == 6 * 2 * 6).all()
        assert count == 6


def rows_of_all(world: World) -> tuple:
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * world.rank
    own.requires_grad_()
    everybody = every_row(own)
    (gradient,) = torch.autograd.grad((world.rank + 1) * (everybody**2).sum(), own)
    return own.detach().numpy(), everybody.detach().numpy(), gradient.numpy()


def test_every_rank_has_all_rows_and_the_gradient_is_of_the_sum_over_ranks(on_ranks):
    ranks = on_ranks(rows_of_all, 3)
    for own, everybody, gradient in ranks:
        assert (everybody == np.concatenate([rows for rows, _, _ in ranks])).all()
        assert (gradient == (1 + 2 + 3) * 2 * own).all()


def means(world: World) -> tuple:
    own = (torch.arange(4.0) + 10 * world.rank).requires_grad_()
    mean = mean_where(own, torch.arange(4) < world.rank)
    nothing = mean_where(own, torch.zeros(4, dtype=torch.bool))
    return mean.item(), *(torch.autograd.grad(found, own)[0].tolist() for found in (mean, nothing)), nothing.item()


def test_a_mean_over_what_ranks_have_chosen(on_ranks):
    """None of the first, one of the second, two of the third."""
    ranks = on_ranks(means, 3)
    assert sum(mean for mean, *_ in ranks) / 3 == pytest.approx((10 + 20 + 21) / 3)
    assert [gradient for _, gradient, *_ in ranks] == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]  # 1/3 each, x 3 ranks
    assert all(rest == [[0, 0, 0, 0], 0] for _, _, *rest in ranks)


def test_one_process_alone_keeps_its_own():
    own = torch.arange(3.0, requires_grad=True)
    assert torch.equal(rank_sum(own), own)
    assert torch.autograd.grad(rank_sum(own).sum(), own)[0].tolist() == [1, 1, 1]
    assert num_rows(own) == 3
    rows = own.detach()[:, None]
    assert every_row(rows) is rows
