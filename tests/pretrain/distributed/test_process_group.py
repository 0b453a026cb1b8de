"""Exchanges between ranks, on real process groups of gloo."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed import process_group as dist


def exchanges(world: dist.World):
    rows = dist.gather_rows(torch.tensor([[float(10 * part + world.rank)] for part in range(2)], dtype=torch.float64))
    batch = dist.gather_batch(
        [torch.tensor([[100 * part + 10 * world.rank + row] for row in range(2)]) for part in range(2)]
    )
    flags = dist.any_rank([world.rank == 1, False, True])
    try:
        with dist.agreed():
            if world.rank == 1:
                raise UserError("bad shard")
        message = None
    except UserError as error:
        message = str(error)
    dist.barrier()
    return world.rank, world.size, rows.flatten().tolist(), batch.flatten().tolist(), flags, message


@pytest.mark.parametrize("size", [2, 3])
def test_exchanges(size, on_ranks):
    parts_of_one_process = [(part, rank) for part in range(2) for rank in range(size)]
    rows = [float(10 * part + rank) for part, rank in parts_of_one_process]
    batch = [100 * part + 10 * rank + row for part, rank in parts_of_one_process for row in range(2)]
    for rank, answer in enumerate(on_ranks(exchanges, size)):
        assert answer == (rank, size, rows, batch, [True, False, True], "bad shard (rank 1)")


def test_one_process_needs_no_group():
    assert dist.start("cpu") == dist.World(rank=0, size=1, device=torch.device("cpu"))
    assert dist.any_rank([True, False]) == [True, False]
    rows = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(dist.gather_rows(rows), rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_one_line():
    with pytest.raises(UserError, match="device cuda: torch finds no GPU"):
        dist.start("cuda")
    parts = [torch.tensor([[0], [1]]), torch.tensor([[2], [3]])]
    assert dist.gather_batch(parts).flatten().tolist() == [0, 1, 2, 3]
