"""Runs one decoding after another in processes that may crash, run out of memory or loop without harm to the rest."""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_workers import CRASHES, start_worker

Job = TypeVar("Job")
SECONDS = 60
"""Of processor time without a further frame, after which a decoder counts as caught in a loop. A file server that does
not answer takes none."""
MEMORY = 4 * 2**30
"""Bytes that one decoder may take."""

Work = Callable[[Job, Callable[[], None]], Any]
Who = tuple[str, str]
"""Whose process it is, and what it makes step by step."""
DECODER: Who = ("its decoder", "frame")


def each(
    jobs: Sequence[Job], work: Work, workers: int, seconds: int = SECONDS, who: Who = DECODER
) -> Iterator[tuple[Job, Any]]:
    """Does ``work(job, alive)`` for each job, in any order.

    Args:
        jobs: what to do.
        work: a function of a module, which calls ``alive()`` whenever it got a step further.
        workers: processes.
        seconds: of processor time that it may take from one step to the next.
        who: does it, for messages.

    Yields:
        A job, and what the work returned, or, as a ``Lost``, how its process ended.

    Raises:
        UserError: a worker process was killed from outside.
        OSError: the work raised it.
    """
    context = multiprocessing.get_context("spawn")
    todo, running = list(reversed(jobs)), dict[Any, tuple[Any, Job]]()

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work, seconds, who[0]), daemon=True)
        process.start()
        theirs.close()
        give(ours, process)

    def give(connection: Any, process: Any) -> None:
        job = todo.pop()
        running[connection] = process, job
        connection.send(job)

    try:
        for _ in range(min(workers, len(todo))):
            start()
        while running:
            for ready in [connection for connection in wait(list(running)) if isinstance(connection, Connection)]:
                process, job = running.pop(ready)
                try:
                    result = ready.recv()
                except (EOFError, OSError):
                    result = _how_it_ended(process, workers, seconds, who)
                    ready.close()
                    yield job, result
                    if todo:
                        start()
                    continue
                if isinstance(result, OSError):
                    raise result
                yield job, result
                if todo:
                    give(ready, process)
                else:
                    ready.close()  # its process ends
    finally:
        for process, _ in running.values():
            process.terminate()


class Lost(str):
    """Why a decoding has no result."""

    __slots__ = ()


def _how_it_ended(process: Any, workers: int, seconds: int, who: Who) -> Lost:
    process.join()
    number = -(process.exitcode or 0)
    if number == signal.SIGXCPU:
        return Lost(f"{who[0]} gave no {who[1]} in {seconds} s of processor time")
    if number in CRASHES:
        return Lost(f"{who[0]} crashed ({signal.Signals(number).name})")
    how = f"by {signal.Signals(number).name}" if number > 0 else f"with exit code {-number}"
    raise UserError(f"workers {workers}: a worker process was ended {how}, most likely for want of memory; use fewer")


def _serve(connection: Connection, work: Work, seconds: int, who: str) -> None:
    start_worker()
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    least = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    resource.setrlimit(resource.RLIMIT_DATA, (least, most))
    told = -1.0

    def alive() -> None:
        nonlocal told
        if (now := time.process_time()) - told >= 1 or told < 0:
            told = now
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (int(now) + 1 + seconds, hard))

    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        told = -1.0
        alive()
        try:
            result = work(job, alive)
        except OSError as error:  # a full disk is nothing of the job's
            result = error
        except MemoryError:
            result = Lost(f"{who} wants more than {MEMORY // 2**30} GiB of memory")
        except Exception as error:  # hostile bytes make PyAV and PIL raise almost anything
            result = Lost(f"{who} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        connection.send(result)
