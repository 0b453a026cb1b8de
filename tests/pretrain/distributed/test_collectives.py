"""What ranks tell each other, on real process groups of gloo, and what a process alone makes of it."""

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed import collectives
from eyespot.pretrain.distributed.collectives import (
    gather_rows,
    gather_with_gradient,
    in_batch_order,
    mean_where,
    num_rows,
    rank_max,
    rank_sum,
    take_from_owners,
)
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


def largest(world: World) -> list[float]:
    own = torch.tensor([1.0, 5.0, -7.0]) * (1 - 2 * world.rank)
    return [*rank_max(own).tolist(), *own.tolist()]


def test_the_largest_of_all_ranks_and_nothing_changes_beneath_it(on_ranks):
    one, other = on_ranks(largest, 2)
    assert one[:3] == other[:3] == [1, 5, 7] and (one[3:], other[3:]) == ([1, 5, -7], [-1, -5, 7])


def rows_of_all(world: World) -> tuple:
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * world.rank
    own.requires_grad_()
    everybody = gather_with_gradient(own)
    assert torch.equal(gather_rows(own.detach()), everybody)
    (gradient,) = torch.autograd.grad((world.rank + 1) * (everybody**2).sum(), own)
    return own.detach().numpy(), everybody.detach().numpy(), gradient.numpy()


def test_every_rank_has_all_rows_and_the_gradient_is_of_the_sum_over_ranks(on_ranks):
    ranks = on_ranks(rows_of_all, 3)
    for own, everybody, gradient in ranks:
        assert (everybody == np.concatenate([rows for rows, _, _ in ranks])).all()
        assert (gradient == (1 + 2 + 3) * 2 * own).all()


def compiled_or_not(world: World) -> list[tuple]:
    """A loss of rows against everybody's, and its gradient: as it is, and compiled as one graph."""
    torch.compiler.reset()
    jaxtyping.config.update("jaxtyping_disable", True)  # in this process; no compiler knows what it looks at

    def loss_of(rows):
        return (world.rank + 1) * (rows @ gather_with_gradient(rows).T).logsumexp(1).sum()

    found = []
    for run in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        own = (torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + world.rank).requires_grad_()
        loss = run(own)
        found.append((loss.item(), torch.autograd.grad(loss, own)[0].tolist()))
    return found


def test_gathered_rows_are_part_of_a_compiled_loss(on_ranks):
    for plain, compiled in on_ranks(compiled_or_not, 2):
        assert plain == compiled


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


def message_of(action) -> str | None:
    try:
        action()
    except UserError as error:
        return str(error)
    return None


def unequal(world: World) -> list[str | None]:
    rows = torch.zeros(4 + world.rank, 2)
    return [message_of(lambda gather=gather: gather(rows)) for gather in (gather_rows, gather_with_gradient)]


def test_unequal_batches_are_one_line_on_every_rank(on_ranks):
    assert {line for lines in on_ranks(unequal, 3) for line in lines} == {
        "batch: the ranks have [4, 5, 6] rows; give every rank the same number"
    }


def micro_batches(world: World, kind: str) -> Tensor:
    """Two of two rows each: 100 * micro-batch + 10 * rank + row."""
    rows = [[[100 * part + 10 * world.rank + row] for row in range(2)] for part in range(2)]
    return torch.tensor(rows, dtype=getattr(torch, kind))


def ordered(world: World, kind: str) -> tuple:
    rows = in_batch_order(micro_batches(world, kind))
    return str(rows.dtype), rows.shape[1:], rows.flatten().tolist()


@pytest.mark.parametrize(("size", "kind"), [(2, "float64"), (3, "int64")])
def test_the_order_of_one_process(size, kind, on_ranks):
    expected = [100 * part + 10 * rank + row for part in range(2) for rank in range(size) for row in range(2)]
    for answer in on_ranks(ordered, size, kind):
        assert answer == (f"torch.{kind}", (1,), expected)


def values(world: World) -> tuple:
    weights = torch.full((2,), float(world.rank))
    collectives.take_from_first(weights)
    collectives.barrier()
    first = collectives.gather_objects_to_first({"rank": world.rank})
    return collectives.gather_objects(f"rank {world.rank}"), first, weights.tolist()


def test_values_of_all_ranks(on_ranks):
    first, second = on_ranks(values, 2)
    assert first == (["rank 0", "rank 1"], [{"rank": 0}, {"rank": 1}], [0, 0])
    assert second == (["rank 0", "rank 1"], None, [0, 0])


def refuse(world: World, culprit: int) -> str | None:
    def read() -> None:
        with collectives.agreed():
            if world.rank == culprit:
                raise UserError("bad shard")

    return message_of(read)


@pytest.mark.parametrize(("culprit", "message"), [(0, "bad shard"), (1, "bad shard (rank 1)"), (9, None)])
def test_wrong_input_on_one_rank_is_wrong_on_all(culprit, message, on_ranks):
    assert on_ranks(refuse, 2, culprit) == [message] * 2


def flags(world: World) -> list[bool]:
    return collectives.any_rank([world.rank == 1, False, True])


def test_what_any_rank_raises(on_ranks):
    assert on_ranks(flags, 3) == [[True, False, True]] * 3


def agreements(world: World) -> list[bool]:
    answer = collectives.any_rank_later([world.rank == 1])
    said = [bool(collectives.all_ranks(torch.tensor(flag))) for flag in (True, world.rank == 0)]
    return [*said, *answer()]


def test_what_all_ranks_say_and_what_is_asked_for_before_it_is_needed(on_ranks):
    assert on_ranks(agreements, 2) == [[True, False, True]] * 2


def test_one_process_alone_keeps_its_own():
    own = torch.arange(3.0, requires_grad=True)
    assert torch.equal(rank_sum(own), own)
    assert torch.autograd.grad(rank_sum(own).sum(), own)[0].tolist() == [1, 1, 1]
    assert torch.equal(rank_max(own), own) and not rank_max(own).requires_grad
    assert num_rows(own) == 3
    rows = own.detach()[:, None]
    assert gather_with_gradient(rows) is rows
    assert gather_rows(rows) is rows
    assert in_batch_order(torch.tensor([[[0], [1]], [[2], [3]]])).tolist() == [[0], [1], [2], [3]]
    assert collectives.gather_objects("mine") == collectives.gather_objects_to_first("mine") == ["mine"]
    assert collectives.any_rank([True, False]) == collectives.any_rank_later([True, False])() == [True, False]
    assert not collectives.all_ranks(torch.tensor(False))
    assert (collectives.num_ranks(), collectives.group_name(None)) == (1, "")
    with pytest.raises(UserError, match=r"^bad shard$"), collectives.agreed():
        raise UserError("bad shard")


def test_the_operators_keep_torchs_rules():
    torch.library.opcheck(collectives._rank_sum, (torch.ones(3, requires_grad=True), ""))
    torch.library.opcheck(collectives._rank_max, (torch.ones(3), ""))


ENDS = [2, 2, 5]
"""The second rank owns nothing."""


def filled(world: World) -> np.ndarray:
    rows = np.full((5, 2), -1, np.int32)
    start = ([0, *ENDS])[world.rank]
    rows[start : ENDS[world.rank]] = 10 * world.rank + np.arange(start, ENDS[world.rank])[:, None]
    take_from_owners(torch.from_numpy(rows), ENDS)
    return rows


def test_rows_are_taken_from_their_owners(on_ranks):
    for rows in on_ranks(filled, 3):
        assert rows.tolist() == [[value] * 2 for value in (0, 1, 22, 23, 24)]
