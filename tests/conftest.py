"""Shared fixtures. Shapes in signatures (jaxtyping) are checked at run time here, and only here."""

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

install_import_hook("eyespot", "beartype.beartype")
# Several test processes share the cores: more threads than cores spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
# What each rank of a distributed test needs and takes seconds to import: imported once, by the server that forks them.
PRELOADED = ("deepspeed", "eyespot.pretrain.trainer", "eyespot.eval.online", "eyespot.pretrain.torch_engine")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data sets that some tests run on."""
    folder = Path(os.environ.get("EYESPOT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set EYESPOT_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The threads of BLAS too."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's real digits as shards: train/ and test/."""
    from eyespot.data_pipeline.shards import pack

    folder = tmp_path_factory.mktemp("shards") / "digits"
    pack("digits", folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def on_ranks() -> Callable[..., list[Any]]:
    """``on_ranks(function, size, *arguments)``: its result on each of ``size`` real gloo ranks.

    ``function(world, *arguments)`` stands at the top of a test file; what it returns is pickled.
    """
    return _on_ranks


@pytest.fixture(scope="session")
def start_ranks() -> Callable[..., list[Any]]:
    """``start_ranks(function, size, *arguments)``: processes as a launcher starts them, for a test to watch and kill.

    ``function(*arguments)`` stands at the top of a test file, and joins the process group itself.
    """
    return _start_ranks


def _on_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    answers = _context().Queue()
    processes = _start_ranks(_answer, size, answers, function, arguments)
    got = {rank: pickle.loads(answer) for rank, answer in (answers.get(timeout=300) for _ in processes)}
    for process in processes:
        process.join(60)
    failed = [text for text in got.values() if isinstance(text, _Failure)]
    assert not failed, "\n".join(failed)
    return [got[rank] for rank in range(size)]


def _start_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
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


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    return context


def _rank(rank: int, size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(*arguments)


class _Failure(str):
    """A rank's traceback."""


def _answer(answers: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import traceback

    from eyespot.pretrain import dist

    try:
        answer = function(dist.start("cpu", timeout_seconds=120.0), *arguments)
    except Exception:
        answer = _Failure(f"rank {os.environ['RANK']}: {traceback.format_exc()}")
    # As bytes: a process that shares memory does not end.
    answers.put((int(os.environ["RANK"]), pickle.dumps(answer)))
    dist.stop()
