"""The sigmoid loss in float64 against a sum pair by pair: value, all gradients, in tiles, on ranks, round the ring."""

from collections.abc import Callable

import jaxtyping
import pytest
import torch
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.losses import rank_blocks, sigmoid
from eyespot.pretrain.losses.sigmoid import sigmoid_loss

COUNT, DIM = 12, 4


WAYS = [("gathered", 2**28), ("round the ring", 0)]


def make_rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = {name: torch.randn(COUNT, DIM, dtype=torch.float64, generator=generator) for name in ("x", "y")}
    ids = torch.arange(COUNT)
    ids[[3, 11]] = ids[[0, 4]]
    return rows | {"ids": ids}


def leaves(rows: dict[str, Tensor]) -> list[Tensor]:
    numbers = [torch.tensor(value, dtype=torch.float64) for value in (12.0, -3.0)]
    return [tensor.clone().requires_grad_() for tensor in (rows["x"], rows["y"], *numbers)]


def slow(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i in range(COUNT):
        for j in range(COUNT):
            if i == j or ids[i] != ids[j]:
                logit = scale * (x[i] / x[i].norm()) @ (y[j] / y[j].norm()) + bias
                total = total - torch.log(torch.sigmoid(logit if i == j else -logit))
    return total / COUNT


def evaluate(rows: dict[str, Tensor], loss_of: Callable[..., Tensor] = sigmoid_loss) -> tuple[Tensor, list[Tensor]]:
    given = leaves(rows)
    loss = loss_of(*given, ids=rows["ids"])
    return loss.detach(), list(torch.autograd.grad(loss, given))


def on_share(world: World) -> list[tuple[Tensor, list[Tensor]]]:
    """Gathered, round the ring, and the latter compiled as one graph."""
    sigmoid.TILE_ROWS["cpu"] = 5
    own = torch.arange(COUNT).chunk(world.size)[world.rank]
    rows, found = {name: tensor[own] for name, tensor in make_rows().items()}, []
    for _, rank_blocks.GATHER_BYTES in WAYS:
        found.append(evaluate(rows))
    jaxtyping.config.update("jaxtyping_disable", True)  # in this process; no compiler knows what it looks at
    return [*found, evaluate(rows, torch.compile(sigmoid_loss, fullgraph=True, backend="aot_eager"))]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.thorough), 3])
def test_ranks_are_the_slow_sum(ranks, on_ranks):
    rows = make_rows()
    given = leaves(rows)
    expected = slow(*given, ids=rows["ids"])
    wanted = torch.autograd.grad(expected, given)
    for answers in zip(*on_ranks(on_share, ranks), strict=True):
        assert abs(sum(loss for loss, _ in answers) / ranks - expected) <= 1e-10
        found = [[gradients[place] for _, gradients in answers] for place in range(4)]
        for parts, gradient in zip(found[:2], wanted[:2], strict=True):
            assert (torch.cat(parts) / ranks - gradient).abs().max() <= 1e-10
        for parts, gradient in zip(found[2:], wanted[2:], strict=True):
            assert abs(sum(parts) / ranks - gradient) <= 1e-10


def unequal(world: World) -> list[str]:
    said = []
    for _, rank_blocks.GATHER_BYTES in WAYS:
        rows = torch.randn(4 + world.rank, DIM)
        with pytest.raises(UserError) as error:
            sigmoid_loss(rows, rows, torch.tensor(1.0), torch.tensor(0.0), ids=torch.arange(len(rows)))
        said.append(str(error.value))
    return said


def test_unequal_batches_are_refused(on_ranks):
    assert on_ranks(unequal, 2) == [["batch: the ranks have [4, 5] rows; give every rank the same number"] * 2] * 2


def test_the_operator_keeps_torchs_rules():
    rows = make_rows()
    towers = [rows[name].clone().requires_grad_() for name in ("x", "y")]
    bias = torch.tensor(-1.5, dtype=towers[0].dtype, requires_grad=True)
    torch.library.opcheck(sigmoid._negatives, (*towers, bias, rows["ids"], None, None, ""))
