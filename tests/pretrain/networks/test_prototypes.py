"""Prototypes and balanced assignments, against a slow reference and by what they are meant to be."""

import pytest
import torch

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.prototypes import Prototypes, balanced, balanced_scores

COUNT, DIM, NUM_PROTOTYPES = 12, 5, 4


def make_cosines() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(COUNT, NUM_PROTOTYPES, generator=generator, dtype=torch.float64) * 2 - 1


def slow_balanced(cosines, epsilon, num_rounds):
    """Columns to an equal share, then rows to 1, number by number."""
    weights = [[(float(cosine) / epsilon) for cosine in row] for row in cosines]
    weights = [[2.718281828459045**value for value in row] for row in weights]
    for _ in range(num_rounds):
        totals = [sum(row[k] for row in weights) for k in range(NUM_PROTOTYPES)]
        weights = [[v * COUNT / NUM_PROTOTYPES / t for v, t in zip(row, totals, strict=True)] for row in weights]
        weights = [[value / sum(row) for value in row] for row in weights]
    return torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize(("epsilon", "num_rounds"), [(0.05, 1), (0.05, 3), (0.5, 3)])
def test_assignments_equal_the_slow_reference(epsilon, num_rounds):
    found = balanced(make_cosines(), epsilon, num_rounds)
    assert torch.allclose(found, slow_balanced(make_cosines(), epsilon, num_rounds), rtol=1e-10, atol=1e-14)


def test_every_prototype_gets_its_share():
    """Even where all samples are nearest to the same one; and a sample's own order of prototypes decides the rest."""
    cosines = make_cosines()
    cosines[:, 0] = 1
    found = balanced(cosines, 0.2, 100)
    assert torch.allclose(found.sum(1), torch.ones(COUNT, dtype=torch.float64))
    assert torch.allclose(found.sum(0), torch.full((NUM_PROTOTYPES,), COUNT / NUM_PROTOTYPES, dtype=torch.float64))
    ratios = found.log() - cosines / 0.2  # of one sample: -log of what the prototypes were divided by, up to a number
    assert torch.allclose(ratios - ratios[:, :1], (ratios - ratios[:, :1])[0])


def test_the_smallest_epsilon_underflows_nowhere():
    cosines = -torch.ones(COUNT, NUM_PROTOTYPES)  # all as far from all as can be, in float32
    cosines[:, 0] = 1
    assert balanced(cosines, 0.025, 3).isfinite().all()


def test_rows_that_do_not_count_are_as_if_they_were_not_there():
    few, rows = make_cosines(), make_cosines().flip(0)
    counted = torch.arange(2 * COUNT) < COUNT
    found = balanced(torch.cat([few, rows]), 0.05, 3, counted)
    assert torch.allclose(found[:COUNT], balanced(few, 0.05, 3), rtol=1e-12)
    assert not found[COUNT:].any()
    everything = balanced(torch.cat([few, rows]), 0.05, 3, torch.ones_like(counted))
    assert torch.allclose(everything, balanced(torch.cat([few, rows]), 0.05, 3), rtol=1e-12)


def own_assignments(world: World) -> torch.Tensor:
    """Unequal shares: 8 rows here, 4 there."""
    return balanced(make_cosines().split([8, 4])[world.rank], 0.05, 3)


def test_ranks_balance_together(on_ranks):
    expected = balanced(make_cosines(), 0.05, 3)
    assert torch.allclose(torch.cat(on_ranks(own_assignments, 2)), expected, rtol=1e-12, atol=0)


def test_cosines_depend_on_no_length_and_held_prototypes_do_not_move():
    torch.manual_seed(0)
    prototypes = Prototypes(DIM, NUM_PROTOTYPES).double()
    rows = torch.randn(3, COUNT, DIM, dtype=torch.float64)
    slow = [
        [(row @ weight / row.norm() / weight.norm()).item() for weight in prototypes.weight]
        for row in rows.flatten(0, 1)
    ]
    expected = torch.tensor(slow, dtype=torch.float64).view(3, COUNT, NUM_PROTOTYPES)
    assert torch.allclose(prototypes(rows), expected)
    with torch.no_grad():
        prototypes.weight *= 3
    assert torch.allclose(prototypes(5 * rows), expected)
    for moving in (True, False):
        prototypes(rows, torch.tensor(moving)).square().sum().backward()
        assert (prototypes.weight.grad.abs().sum() > 0) == moving
        prototypes.weight.grad = None


def test_where_no_row_counts_there_is_nothing_to_assign():
    found = balanced(make_cosines(), 0.05, 3, torch.zeros(COUNT, dtype=torch.bool))
    assert (found == 0).all()


def test_the_smoothness_may_be_a_tensor():
    found = balanced(make_cosines(), torch.tensor(0.05, dtype=torch.float64), 3)
    assert torch.allclose(found, balanced(make_cosines(), 0.05, 3))


def test_scores_are_balanced_as_cosines_are():
    cosines = make_cosines()
    for num_rounds in (1, 3):
        expected = slow_balanced(cosines, 0.05, num_rounds)
        assert torch.allclose(balanced_scores(cosines / 0.05, num_rounds), expected, rtol=1e-10, atol=1e-14)
    both = torch.stack([cosines, cosines.flip(1)]) / 0.05
    apart = torch.stack([balanced_scores(table, 3) for table in both])
    assert torch.allclose(balanced_scores(both, 3), apart, rtol=1e-12, atol=0)


def test_scores_of_any_size_are_balanced_in_single_precision():
    """Exponentials of these overflow, and a whole row underflows beside another: yet both have their clusters."""
    few = 2 * make_cosines()
    far = few + 300 * torch.arange(COUNT, dtype=torch.float64)[:, None]  # of each row all are alike, none of a column
    found = balanced_scores(far.float(), 60)
    assert torch.allclose(found, balanced_scores(few, 60).float(), atol=1e-3)  # in the end no row's height counts
    assert torch.allclose(found.sum(1), torch.ones(COUNT))


def own_scores(world: World) -> torch.Tensor:
    return balanced_scores(20 * make_cosines().chunk(2)[world.rank], 3)


def test_ranks_balance_scores_together(on_ranks):
    expected = balanced_scores(20 * make_cosines(), 3)
    assert torch.allclose(torch.cat(on_ranks(own_scores, 2)), expected, rtol=1e-12, atol=0)
