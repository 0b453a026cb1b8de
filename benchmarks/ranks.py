"""Processes that work together, started as a launcher would: forked from one that has imported everything."""

import multiprocessing
import os
import queue
import socket
from collections.abc import Callable
from typing import Any

PRELOADED = ["deepspeed", "eyespot.pretrain.trainer", "eyespot.pretrain.recipes.mae", "eyespot.pretrain.torch_engine"]

Start = Callable[..., list[Any]]
"""``start_ranks``, or what a test has in its place."""


def start_ranks(function: Callable[..., None], size: int, *arguments: Any) -> list[Any]:
    """``function(*arguments)`` in ``size`` processes, with the environment that torchrun gives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        _context().Process(target=_rank, args=(rank, size, port, function, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def on_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """What ``function(world, *arguments)`` returns on each of ``size`` gloo ranks, one thread each."""
    answers = _context().Queue()
    processes = start_ranks(_answer, size, answers, function, arguments)
    got: dict[int, Any] = {}
    while len(got) < size:
        try:
            rank, answer = answers.get(timeout=1)
            got[rank] = answer
        except queue.Empty:
            if any(process.exitcode not in (None, 0) for process in processes):
                raise RuntimeError("a rank failed; its traceback is above") from None
    for process in processes:
        process.join()
    return [got[rank] for rank in range(size)]


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _rank(rank: int, size: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    function(*arguments)


def _answer(answers: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    from eyespot.pretrain import dist

    torch.set_num_threads(1)
    world = dist.start("cpu")
    answers.put((world.rank, function(world, *arguments)))
    dist.stop()
