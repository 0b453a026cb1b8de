"""Exchanges between ranks, on real process groups of gloo."""

import multiprocessing
import socket

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import dist


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def worker(rank: int, size: int, port: int, answers) -> None:
    import os

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = dist.start("cpu", timeout_minutes=1)
    rows = dist.gather_rows(torch.tensor([[float(10 * part + rank)] for part in range(2)], dtype=torch.float64))
    flags = dist.any_rank([rank == 1, False, True])
    try:
        with dist.agreed():
            if rank == 1:
                raise UserError("bad shard")
        message = None
    except UserError as error:
        message = str(error)
    dist.barrier()
    dist.stop()
    answers.put((rank, world.size, rows.flatten().tolist(), flags, message))


@pytest.mark.parametrize("size", [2, 3])
def test_exchanges(size):
    context = multiprocessing.get_context("spawn")
    answers, port = context.Queue(), free_port()
    processes = [context.Process(target=worker, args=(rank, size, port, answers)) for rank in range(size)]
    for process in processes:
        process.start()
    got = sorted(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(30)
    order_of_one_process = [float(10 * part + rank) for part in range(2) for rank in range(size)]
    for rank, answer in enumerate(got):
        assert answer == (rank, size, order_of_one_process, [True, False, True], "bad shard (rank 1)")


def test_one_process_needs_no_group():
    assert dist.start("cpu") == dist.World(rank=0, size=1, device=torch.device("cpu"))
    assert dist.any_rank([True, False]) == [True, False]
    rows = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(dist.gather_rows(rows), rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_one_line():
    with pytest.raises(UserError, match="device cuda: torch finds no GPU"):
        dist.start("cuda")
