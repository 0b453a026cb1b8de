"""Processes that work together, started as a launcher would: forked from one that has imported everything."""

import multiprocessing
import os
import pickle
import queue
import random
import signal
import socket
import traceback
import warnings
from collections.abc import Callable
from typing import Any

PRELOADED = ["deepspeed", "eyespot.pretrain.trainer", "eyespot.eval.online_probe", "eyespot.pretrain.recipes.mae"]
"""What every rank needs and takes seconds to import: the server does it once."""

Start = Callable[..., list[Any]]
"""``start_ranks``."""


class RankError(RuntimeError):
    """What failed on the ranks: their tracebacks."""


class RankCrash(RankError):
    """A rank died in native code: not of anything that Python did."""


CRASHES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT}
"""Exit codes of such a rank; the last is glibc's answer to a damaged heap."""


def start_ranks(function: Callable[..., None], size: int, *arguments: Any) -> list[Any]:
    """``function(*arguments)`` in ``size`` processes, with the environment that torchrun gives; they are not awaited.

    The function stands at the top of a file, and joins the process group itself. What it draws without a generator of
    its own follows from this process' seed, the same on all ranks.
    """
    import torch

    seed = torch.initial_seed()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        _context().Process(target=_rank, args=(rank, size, port, seed, function, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def on_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """What ``function(world, *arguments)`` returns on each of ``size`` real gloo ranks, one thread each.

    The function stands at the top of a file; what it returns is pickled. Where torch itself crashes (seen twice in some
    ten thousand starts: in malloc, once called by gloo's own thread) all of it is done once more, with a warning.

    Raises:
        RankError: it failed on a rank.
    """
    try:
        return _answers_of(function, size, arguments)
    except RankCrash as error:
        warnings.warn(f"{function.__name__}: {error}; once more", stacklevel=2)
        return _answers_of(function, size, arguments)


def _answers_of(function: Callable[..., Any], size: int, arguments: tuple[Any, ...]) -> list[Any]:
    answers = _context().Queue()
    processes = start_ranks(_answer, size, answers, function, arguments)
    got: dict[int, Any] = {}
    while len(got) < size:
        try:
            rank, answer = answers.get(timeout=1)
            got[rank] = pickle.loads(answer)
        except queue.Empty:
            if dead := {rank: code for rank, process in enumerate(processes) if (code := process.exitcode)}:
                for process in processes:
                    process.kill()
                kind = RankCrash if CRASHES & set(dead.values()) else RankError
                raise kind(f"ended without an answer, by rank their exit codes: {dead}") from None
    for process in processes:
        process.join(60)
    if failed := [answer for answer in got.values() if isinstance(answer, RankError)]:
        raise RankError("\n".join(map(str, failed)))
    return [got[rank] for rank in range(size)]


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _rank(
    rank: int, size: int, port: int, seed: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    import numpy as np
    import torch

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    function(*arguments)


def _answer(answers: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    from eyespot.pretrain.distributed import process_group

    torch.set_num_threads(1)
    try:
        answer = function(process_group.start("cpu", timeout_seconds=120.0), *arguments)
    except Exception:
        answer = RankError(f"rank {os.environ['RANK']}: {traceback.format_exc()}")
    # As bytes: a process that shares memory does not end.
    answers.put((int(os.environ["RANK"]), pickle.dumps(answer)))
    process_group.stop()
